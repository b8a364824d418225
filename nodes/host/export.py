"""From the host's loaded model to a private copy in the core's classes, LoRAs baked in; the host's tensors stay its own."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import comfy.lora
import comfy.model_management
import comfy.model_sampling
import torch

from ...escdiff_core.errors import ESCDiffError
from ...escdiff_core.model.families import FAMILIES, ModelConfig, recognise
from ...escdiff_core.model.infer import TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX, infer_unet
from ...escdiff_core.model.load import DiffusionModel, fingerprint, model_from_tensors
from ...escdiff_core.model.names import to_diffusers, unet_map
from .contract import hold, require
from .progress import make_room

HOST_UNET, HOST_TEXT = "diffusion_model.", "clip_l.transformer."
NOT_TEXT = ("text_projection.weight", "position_ids")


def private_model(model, clip, vae) -> DiffusionModel:
    """Copy the host's MODEL, CLIP and VAE into a DiffusionModel, with every LoRA that is on them baked in, fp32.

    Its ``fingerprint`` is that of the base without LoRAs: an attribute belongs to a checkpoint. Raises ESCDiffError in one
    sentence for a model that is no Stable Diffusion 1.x, and for a missing CLIP or VAE.
    """
    config = config_of(model, clip, vae)
    tensors = {UNET_PREFIX + n.removeprefix(HOST_UNET): t for n, t in baked(model, HOST_UNET).items()}
    tensors |= {TEXT_PREFIX + n.removeprefix(HOST_TEXT): t for n, t in baked(clip.patcher, HOST_TEXT).items()
                if not n.endswith(NOT_TEXT)}
    tensors |= {VAE_PREFIX + n: t.detach().float().cpu() for n, t in vae.first_stage_model.state_dict().items()}
    make_room(4 * sum(t.numel() for t in tensors.values()))
    made = model_from_tensors(tensors, config, comfy.model_management.get_torch_device(), source="the loaded model")
    return replace(made, fingerprint=base_fingerprint(model)) if model.patches else made


def config_of(model, clip, vae) -> ModelConfig:
    """The core's configuration of the three, CLIP skip included. Nothing is copied. Raises ESCDiffError as private_model does."""
    check_model(model)
    check_clip(clip)
    check_vae(vae)
    given = ((UNET_PREFIX, unpatched(model)), (TEXT_PREFIX, unpatched(clip.patcher, HOST_TEXT)),
             (VAE_PREFIX, vae.first_stage_model.state_dict()))
    shapes = {prefix + n: tuple(t.shape) for prefix, tensors in given for n, t in tensors.items() if not n.endswith(NOT_TEXT)}
    return _without_skipped_layers(model_config(model, shapes), clip.layer_idx)


def check_model(model) -> None:
    """Raise ESCDiffError unless ``model`` is a Stable Diffusion 1.x UNet, as contract has it."""
    require("model")
    inner = getattr(model, "model", None)
    unet = getattr(inner, "diffusion_model", None)
    config = getattr(getattr(inner, "model_config", None), "unet_config", {})
    if unet is None or not hasattr(unet, "input_blocks") or config.get("adm_in_channels") or config.get("in_channels") != 4 \
            or config.get("use_linear_in_transformer"):
        family = type(getattr(inner, "model_config", inner)).__name__
        raise ESCDiffError(f"this MODEL is of the family {family}; ESCDiff works with Stable Diffusion 1.x text-to-image "
                           "models: load such a checkpoint, or use the ESCDiff pocket model")
    remembered(inner, "contract", lambda: hold("model", model))


def check_clip(clip) -> None:
    """Raise ESCDiffError unless ``clip`` is the text encoder of Stable Diffusion 1.x, as contract has it."""
    require("clip")
    if clip is None or not hasattr(clip.cond_stage_model, "clip_l") or hasattr(clip.cond_stage_model, "clip_g"):
        raise ESCDiffError("the CLIP is missing or not that of Stable Diffusion 1.x; connect the CLIP that came with the model")
    remembered(clip.cond_stage_model, "contract", lambda: hold("clip", clip))


def check_vae(vae) -> None:
    """Raise ESCDiffError unless ``vae`` is one of Stable Diffusion's, as contract has it."""
    require("vae", "learning")
    if vae is None or not hasattr(vae, "first_stage_model") or "quant_conv.weight" not in vae.first_stage_model.state_dict():
        raise ESCDiffError("the VAE is missing or none of Stable Diffusion's; connect the VAE that came with the model")
    hold("vae", vae)


def is_merge(patch: tuple) -> bool:
    """Does a patch (strength, value, strength of the model, …) mix another model's weights in, as no LoRA does?"""
    strength, value, of_model, *_ = patch
    return of_model != 1.0 or (isinstance(value, list) and strength != 0.0)


def baked(patcher, prefix: str, counts: Callable[[tuple], bool] = lambda patch: True) -> dict[str, torch.Tensor]:
    """The weights under ``prefix`` with the patches on ``patcher`` that count, fp32 copies on the CPU.

    Read through the patch list, because the module itself may hold another clone's patches at the moment.
    """
    weights = {}
    for name, (first, *patches) in patcher.get_key_patches(prefix).items():
        weight, convert = first
        patches = [p for p in patches if counts(p)]
        if weight.device.type == "meta":
            raise ESCDiffError(f"this MODEL or CLIP came without its weights (first: {name}); load it with one of "
                               "ComfyUI's own loaders, such as Load Checkpoint")
        weight = convert(weight.detach().to(comfy.model_management.get_torch_device(), copy=True), inplace=False).float()
        if patches:
            weight = comfy.lora.calculate_weight(patches, weight, name)
        weights[name] = weight.float().cpu()
    return weights


def unpatched(patcher, prefix: str = HOST_UNET) -> Mapping[str, torch.Tensor]:
    """The weights under ``prefix`` by original names without any patch, as the checkpoint has them."""
    return {n.removeprefix(prefix): first[0] for n, (first, *_) in patcher.get_key_patches(prefix).items()}


def remembered(owner: torch.nn.Module, key, make: Callable[[], str | None]) -> str | None:
    """``make()``, kept under ``key`` with the loaded module that it is about, so that no node computes it again."""
    known = vars(owner).setdefault("escdiff_remembered", {})
    if key not in known:
        known[key] = make()
    return known[key]


def checkpoint_fingerprint(model) -> str:
    """The fingerprint of the checkpoint under ``model``, without anything that was put onto it."""
    check_model(model)
    return remembered(model.model, "fingerprint", lambda: _fingerprint(model, unpatched(model)))


def base_fingerprint(model) -> str:
    """The fingerprint of what attributes on ``model`` belong to: its checkpoint, LoRAs left out, or the merge of models on it."""
    check_model(model)
    if not any(is_merge(p) for patches in model.patches.values() for p in patches):
        return checkpoint_fingerprint(model)
    return remembered(model.model, ("merge", model.patches_uuid), lambda: _fingerprint(
        model, {n.removeprefix(HOST_UNET): t for n, t in baked(model, HOST_UNET, is_merge).items()}))


def _fingerprint(model, weights: Mapping[str, torch.Tensor]) -> str:
    config = unet_config(model)
    return fingerprint(to_diffusers(weights, unet_map(config)), config)


def unet_config(model) -> dict:
    """The UNet's configuration in diffusers' words: shapes say most, the host says the heads."""
    own = getattr(model.model, "escdiff_config", None)      # the pocket model carries its own
    if own is None:
        shapes = {UNET_PREFIX + n: tuple(t.shape) for n, t in unpatched(model).items()}
        unet = {**FAMILIES["sd15"].unet, **infer_unet(shapes, "the loaded model")}
    else:
        unet = own.unet
    return {**unet, "attention_head_dim": _heads(model, unet["block_out_channels"])}


def model_config(model, shapes: Mapping[str, tuple[int, ...]]) -> ModelConfig:
    """The core's configuration of the host's model and what came with it."""
    own = getattr(model.model, "escdiff_config", None) or recognise(shapes, {}, "the loaded model")
    return replace(own, unet=unet_config(model), scheduler=_schedule(model),
                   vae={**own.vae, "scaling_factor": model.model.latent_format.scale_factor})


def _heads(model, widths) -> int | list[int]:
    config = model.model.model_config.unet_config
    number, width = config.get("num_heads", -1), config.get("num_head_channels", -1)
    return number if number and number > 0 else [w // width for w in widths]


def _schedule(model) -> dict:
    """The noise schedule on the MODEL, patched ones included. Raises ESCDiffError for what the core cannot express."""
    sampling = model.get_model_object("model_sampling")
    if getattr(sampling, "zsnr", False) or not hasattr(sampling, "linear_end"):
        raise ESCDiffError("the model's noise schedule was replaced (zero terminal SNR or a continuous one); take the "
                           "ModelSampling node out before ESCDiff")
    if isinstance(sampling, (comfy.model_sampling.X0, comfy.model_sampling.EDM)):
        raise ESCDiffError("the model's prediction was replaced (x0 or EDM); take the ModelSampling node out before ESCDiff")
    kind = "v_prediction" if isinstance(sampling, comfy.model_sampling.V_PREDICTION) else "epsilon"
    return {"num_train_timesteps": sampling.num_timesteps, "beta_start": sampling.linear_start,
            "beta_end": sampling.linear_end, "beta_schedule": "scaled_linear", "prediction_type": kind}


def _without_skipped_layers(config: ModelConfig, layer: int | None) -> ModelConfig:
    """CLIP skip: the private copy ends where the user's does, since its final norm follows whichever layer is last."""
    layers = config.text_encoder["num_hidden_layers"]
    if layer is None or abs(layer) > layers:
        return config
    return replace(config, text_encoder={**config.text_encoder, "num_hidden_layers": layer % layers + 1})
