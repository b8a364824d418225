"""From the host's loaded model to a private copy in the core's classes, LoRAs baked in; the host's tensors
stay its own."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import comfy.lora
import comfy.model_management
import comfy.model_sampling
import torch

from ...escdiff_core.errors import ESCDiffError, lookup
from ...escdiff_core.families import FAMILIES, SUPPORTED, Family, ModelConfig, usual_recipes
from ...escdiff_core.families.family import widths_of
from ...escdiff_core.families.load import model_from_tensors
from ...escdiff_core.families.recognise import configured
from ...escdiff_core.learning.precision import in_bf16
from ...escdiff_core.model.clip_names import PROJECTION
from ...escdiff_core.model.diffusion import DiffusionModel, fingerprint
from ...escdiff_core.model.infer import UNET_PREFIX, VAE_PREFIX, infer_text_encoder, infer_unet, infer_vae
from ...escdiff_core.model.names import to_diffusers, unet_map
from .contract import hold, require
from .progress import make_room

# prefixes of the weights on a MODEL, and of a tower's on a CLIP
HOST_UNET, HOST_TEXT = "diffusion_model.", "{}.transformer."
NOT_TEXT = ("position_ids", "logit_scale")
SOURCE = "the loaded model"


def private_model(model, clip, vae, dtype: torch.dtype | None = None) -> DiffusionModel:
    """Copy the host's MODEL, CLIP and VAE into a DiffusionModel on its device, with every LoRA that is on
    them baked in: UNet and towers in ``dtype`` (None: see copy_dtype), the VAE in fp32.

    Its ``fingerprint`` is that of the base without LoRAs: an attribute belongs to a checkpoint. Raises
    ESCDiffError in one sentence for a model of no family, and for a missing CLIP or VAE.
    """
    config, device = config_of(model, clip, vae), comfy.model_management.get_torch_device()
    towers, decoder = FAMILIES[config.family].tower_names, vae.first_stage_model.state_dict()
    parts = [unpatched(model), decoder, *(text_tensors(clip, tower, named) for tower in towers)]
    # of a merge it bakes tensors of its own, which are gone again before ours are made
    base = base_fingerprint(model)
    dtype = copy_dtype(model, device) if dtype is None else dtype
    sizes = [sum(t.numel() for t in part.values()) for part in parts]
    make_room(dtype.itemsize * sum(sizes) + (4 - dtype.itemsize) * sizes[1])        # the VAE is in fp32
    read = partial(baked, dtype=dtype)
    return model_from_tensors(
        {n.removeprefix(HOST_UNET): t for n, t in read(model, HOST_UNET).items()},
        {n: t.detach().to(device, torch.float32, copy=True) for n, t in decoder.items()},
        {tower: text_tensors(clip, tower, read) for tower in towers},
        config, device, dtype, source=getattr(model.model, "escdiff_source", "") or SOURCE, base=base,
    )


def copy_dtype(model, device: torch.device) -> torch.dtype:
    """In which precision the host's MODEL is copied to ``device``: bf16 on a GPU that computes learning in it
    and whose user has the model in half precision too; there autocast would round every weight in every step.
    """
    stored = next(iter(unpatched(model).values())).dtype
    half = device.type != "cpu" and in_bf16(device) and stored != torch.float32
    return torch.bfloat16 if half else torch.float32


def text_tensors(clip, tower: str, read: Callable) -> dict[str, torch.Tensor]:
    """The weights of a ``tower`` of ``clip`` under transformers' names, as ``read`` (baked or unpatched)
    gives them."""
    prefix = HOST_TEXT.format(tower)
    found = {
        n.removeprefix(prefix): t for n, t in read(clip.patcher, prefix).items() if not n.endswith(NOT_TEXT)
    }
    if not any(row.name == tower and row.pooled for family in FAMILIES.values() for row in family.towers):
        # the host keeps one for every tower, of ones where a checkpoint has none
        found.pop(PROJECTION, None)
    return found


def config_of(model, clip, vae) -> ModelConfig:
    """The core's configuration of the three, CLIP skip included. Nothing is copied. Raises ESCDiffError as
    private_model does."""
    check_model(model)
    family = family_of(model)
    check_clip(clip, family)
    check_vae(vae)
    # the pocket model carries its own
    own, unet = getattr(model.model, "escdiff_config", None), unet_config(model)
    config = own or configured(family, unet, _vae_config(vae), {
        tower: _text_config(clip, tower) for tower in family.tower_names})
    config = replace(config, unet=unet, scheduler=_schedule(model),
                     vae={**config.vae, "scaling_factor": model.model.latent_format.scale_factor})
    return _without_skipped_layers(config, clip)


def family_of(model) -> Family | None:
    """The family of the host's MODEL, None if it is of no family here."""
    inner = getattr(model, "model", None)
    if getattr(inner, "escdiff_config", None) is not None:
        return FAMILIES[inner.escdiff_config.family]
    unet, config = (
        getattr(inner, "diffusion_model", None),
        getattr(getattr(inner, "model_config", None), "unet_config", {}),
    )
    if unet is None or not hasattr(unet, "input_blocks") or config.get("in_channels") != 4:
        return None
    family = next((f for f in FAMILIES.values() if f.context == config.get("context_dim")), None)
    if family is None or config.get("adm_in_channels") != family.unet.get(
        "projection_class_embeddings_input_dim"
    ):
        return None
    return family if bool(
        config.get("use_linear_in_transformer")) == family.unet["use_linear_projection"] else None


def usual_recipe(model, kind: str) -> str:
    """What ``kind`` is learned with on the host's MODEL where nobody asks for another recipe."""
    check_model(model)
    own = getattr(model.model, "escdiff_source", "")       # the pocket model's file
    return lookup(usual_recipes(family_of(model).name, own), kind, "kind")


def check_model(model) -> None:
    """Raise ESCDiffError unless ``model`` is the UNet of a family, as contract has it."""
    require("model")
    if family_of(model) is None:
        inner = getattr(model, "model", None)
        kind = type(getattr(inner, "model_config", inner)).__name__
        raise ESCDiffError(
            f"this MODEL is of the family {kind}; ESCDiff works with text-to-image models of "
            f"{SUPPORTED}: load such a checkpoint, or use the ESCDiff pocket model"
        )
    remembered(model.model, "contract", lambda: hold("model", model))


def check_clip(clip, family: Family | None = None) -> None:
    """Raise ESCDiffError unless ``clip`` has the text encoders of ``family`` (None: of any), as contract has
    it."""
    require("clip")
    towers = (
        ()
        if clip is None
        else {n for f in FAMILIES.values() for n in f.tower_names if hasattr(clip.cond_stage_model, n)}
    )
    fits = any(set(f.tower_names) == set(towers) for f in (FAMILIES.values() if family is None else [family]))
    if not fits:
        raise ESCDiffError(
            f"the CLIP is missing or not that of {SUPPORTED if family is None else family.title}; "
            "connect the CLIP that came with the model"
        )
    remembered(clip.cond_stage_model, "contract", lambda: hold("clip", clip))


def check_vae(vae) -> None:
    """Raise ESCDiffError unless ``vae`` is one of Stable Diffusion's, as contract has it."""
    require("vae", "learning")
    if vae is None or not hasattr(
            vae, "first_stage_model") or "quant_conv.weight" not in vae.first_stage_model.state_dict():
        raise ESCDiffError(
            "the VAE is missing or none of Stable Diffusion's; connect the VAE that came with the model"
        )
    hold("vae", vae)


def is_merge(patch: tuple) -> bool:
    """Does a patch (strength, value, strength of the model, …) mix another model's weights in, as no LoRA
    does?"""
    strength, value, of_model, *_ = patch
    return of_model != 1.0 or (isinstance(value, list) and strength != 0.0)


def baked(
    patcher, prefix: str, counts: Callable[[tuple], bool] = lambda patch: True,
    dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """The weights under ``prefix`` with the patches on ``patcher`` that count, copies in ``dtype`` on the
    host's device.

    Read through the patch list, because the module itself may hold another clone's patches at the moment.
    """
    weights, device = {}, comfy.model_management.get_torch_device()
    for name, (first, *patches) in patcher.get_key_patches(prefix).items():
        weight, convert = first
        patches = [p for p in patches if counts(p)]
        if weight.device.type == "meta":
            raise ESCDiffError(
                f"this MODEL or CLIP came without its weights (first: {name}); load it with one of "
                "ComfyUI's own loaders, such as Load Checkpoint"
            )
        moved = convert(weight.detach().to(device), inplace=False)
        # what did not move may still be the host's own
        weight = moved.to(torch.float32 if patches else dtype, copy=moved.device == weight.device)
        if patches:
            weight = comfy.lora.calculate_weight(patches, weight, name)
        weights[name] = weight.to(dtype)
    return weights


def unpatched(patcher, prefix: str = HOST_UNET) -> Mapping[str, torch.Tensor]:
    """The weights under ``prefix`` by original names without any patch, as the checkpoint has them."""
    return {n.removeprefix(prefix): first[0] for n, (first, *_) in patcher.get_key_patches(prefix).items()}


def remembered(owner: torch.nn.Module, key, make: Callable[[], str | None]) -> str | None:
    """``make()``, kept under ``key`` with the loaded module that it is about, so that no node computes it
    again."""
    known = vars(owner).setdefault("escdiff_remembered", {})
    if key not in known:
        known[key] = make()
    return known[key]


def checkpoint_fingerprint(model) -> str:
    """The fingerprint of the checkpoint under ``model``, without anything that was put onto it."""
    check_model(model)
    return remembered(model.model, "fingerprint", lambda: _fingerprint(model, unpatched(model)))


def base_fingerprint(model) -> str:
    """The fingerprint of what attributes on ``model`` belong to: its checkpoint, LoRAs left out, or the merge
    of models on it."""
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
        unet = {**family_of(model).unet, **infer_unet(shapes, SOURCE)}
    else:
        unet = dict(own.unet)
    return {**unet, "attention_head_dim": _heads(model, unet)}


def _text_config(clip, tower: str) -> dict:
    shapes = {n: tuple(t.shape) for n, t in text_tensors(clip, tower, named).items()}
    return infer_text_encoder(shapes, "", "transformers", SOURCE)


def named(patcher, prefix: str) -> dict[str, torch.Tensor]:
    """The weights under ``prefix`` without any patch, under their whole names."""
    return {prefix + n: t for n, t in unpatched(patcher, prefix).items()}


def _vae_config(vae) -> dict:
    return infer_vae(
        {VAE_PREFIX + n: tuple(t.shape) for n, t in vae.first_stage_model.state_dict().items()}, SOURCE
    )


def _heads(model, unet: Mapping) -> int | list[int]:
    config = model.model.model_config.unet_config
    number, width = config.get("num_heads", -1), config.get("num_head_channels", -1)
    return number if number and number > 0 else widths_of(unet, width)


def _schedule(model) -> dict:
    """The noise schedule on the MODEL, patched ones included. Raises ESCDiffError for what the core cannot
    express."""
    sampling = model.get_model_object("model_sampling")
    if getattr(sampling, "zsnr", False) or not hasattr(sampling, "linear_end"):
        raise ESCDiffError(
            "the model's noise schedule was replaced (zero terminal SNR or a continuous one); take "
            "the ModelSampling node out before ESCDiff"
        )
    if isinstance(sampling, (comfy.model_sampling.X0, comfy.model_sampling.EDM)):
        raise ESCDiffError(
            "the model's prediction was replaced (x0 or EDM); take the ModelSampling node out before ESCDiff"
        )
    kind = "v_prediction" if isinstance(sampling, comfy.model_sampling.V_PREDICTION) else "epsilon"
    return {"num_train_timesteps": sampling.num_timesteps, "beta_start": sampling.linear_start,
            "beta_end": sampling.linear_end, "beta_schedule": "scaled_linear", "prediction_type": kind}


def _without_skipped_layers(config: ModelConfig, clip) -> ModelConfig:
    """CLIP skip: the private copy reads the layer that the user's does. A tower that ends in its final norm
    ends there; one that is read before it keeps all its layers. A number beyond them is the last layer, as
    the host has it.
    """
    layer = clip.layer_idx
    if layer is None:
        return config
    texts, reads = {n: dict(text) for n, text in config.text_encoders.items()}, {}
    for row in FAMILIES[config.family].towers:
        layers = _text_config(clip, row.name)["num_hidden_layers"]
        beyond = abs(layer) > layers
        if row.hidden_state is None:
            texts[row.name]["num_hidden_layers"] = layers if beyond else layer % layers + 1
        else:
            reads[row.name] = None if beyond else layer
    return replace(config, text_encoders=texts, reads=reads)
