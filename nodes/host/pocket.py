"""The pocket model in the host's own classes: every stock node works with it."""

import logging
from types import SimpleNamespace

import comfy.latent_formats
import comfy.model_base
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch

from ...escdiff_core.errors import ESCDiffError
from ...escdiff_core.families.recognise import CONFIG_KEY, ModelConfig, parse_config
from ...escdiff_core.model.infer import UNET_PREFIX, VAE_PREFIX
from ...escdiff_core.model.tokenizer import build_tokenizer
from ...escdiff_core.reference.picture import AREA_BOUNDS
from ...escdiff_core.worlds.pocket.config import CHECKPOINT as POCKET_PATH
from .contract import require
from .notes import nothing_to_tell, tell

WRAPPER_KEY = "escdiff_size"


def load_pocket(**patcher_options):
    """Return (MODEL, CLIP, VAE) of the checkpoint that ships with the pack; the options go to the host's
    CLIP."""
    require("pocket")
    if not POCKET_PATH.exists():
        raise ESCDiffError(
            f"the pocket model is not at {POCKET_PATH}; install the pack again, it brings the file along"
        )
    tensors, metadata = comfy.utils.load_torch_file(str(POCKET_PATH), return_metadata=True)
    config = parse_config(metadata[CONFIG_KEY], str(POCKET_PATH))
    model, clip, vae = (
        _load_unet(tensors, config),
        _load_clip(tensors, config, **patcher_options),
        _load_vae(tensors, config),
    )
    watch_size(model, config.native_size)
    for part, patcher in enumerate((model, clip.patcher, vae.patcher)):
        # newer hosts load a model again to put weight hooks on it
        if hasattr(patcher, "cached_patcher_init"):
            patcher.cached_patcher_init = (load_again, (part,))
    return model, clip, vae


def load_again(part: int, **patcher_options):
    """The patcher of the MODEL (0), CLIP (1) or VAE (2), loaded anew; the host asks with ``disable_dynamic``
    for hooks."""
    model, clip, vae = load_pocket(**patcher_options)
    return (model, clip.patcher, vae.patcher)[part]


def watch_size(model, native_size: int) -> None:
    """Let whichever node samples ``model`` say so when its latent is of a size that this model cannot
    draw."""
    def sampling(executor, noise, *given, **more):
        height, width = (8 * side for side in noise.shape[-2:])
        least, most = AREA_BOUNDS
        if least <= height * width / native_size**2 <= most:
            nothing_to_tell()
        else:
            tell(
                f"set the latent to {native_size}×{native_size} pixels: this model draws pictures of "
                f"about that size, and {width}×{height} were asked for",
                logging.WARNING,
            )
        return executor(noise, *given, **more)

    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, WRAPPER_KEY, sampling)


def _load_unet(tensors, config: ModelConfig):
    found = comfy.model_detection.detect_unet_config(tensors, UNET_PREFIX)
    heads = config.unet["attention_head_dim"]           # diffusers' name for the number of heads
    widths = {w // h for w, h in zip(config.unet["block_out_channels"], heads, strict=True)}
    if len(widths) != 1:
        raise ESCDiffError(
            f"the pocket's attention heads are {sorted(widths)} wide; ComfyUI needs one width: train it anew"
        )

    class Pocket(comfy.supported_models.SD15):
        def model_type(self, state_dict, prefix=""):
            kinds = {"epsilon": "EPS", "v_prediction": "V_PREDICTION"}
            return comfy.model_base.ModelType[kinds[config.scheduler["prediction_type"]]]

    Pocket.unet_extra_config = {"num_heads": -1, "num_head_channels": widths.pop()}
    Pocket.sampling_settings = {
        "linear_start": config.scheduler["beta_start"],
        "linear_end": config.scheduler["beta_end"],
    }
    family = Pocket(found)
    family.latent_format.scale_factor = config.vae["scaling_factor"]
    family.set_inference_dtype(torch.float32, None)
    device, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    model = family.get_model(tensors, UNET_PREFIX, device=offload)
    model.load_model_weights(dict(tensors), UNET_PREFIX)
    model.escdiff_config = config      # its vocabulary and widths, for the private copy
    model.escdiff_source = str(POCKET_PATH)
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)


def _load_clip(tensors, config: ModelConfig, **patcher_options):
    (text,) = config.text_encoders.values()
    start, end = text["bos_token_id"], text["eos_token_id"]

    class Text(comfy.sd1_clip.SDClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(device=device, dtype=dtype, model_options=model_options or {},
                             textmodel_json_config=dict(text),
                             special_tokens={"start": start, "end": end,
                                             "pad": end}, return_projected_pooled=False)
            # the host's class fixes CLIP's own 49 408 words
            words = comfy.ops.manual_cast.Embedding(
                text["vocab_size"], text["hidden_size"], device=device, dtype=dtype
            )
            self.transformer.set_input_embeddings(words.requires_grad_(False))

    class Words(comfy.sd1_clip.SDTokenizer):
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            own = build_tokenizer(config.tokenizer, text["max_position_embeddings"])
            super().__init__(embedding_directory=embedding_directory, embedding_size=text["hidden_size"],
                             tokenizer_class=SimpleNamespace(from_pretrained=lambda path, **kwargs: own))

    class Tokenizer(comfy.sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            super().__init__(embedding_directory=embedding_directory, tokenizer=Words)

    class Clip(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=Text)

    weights = {
        n.replace("cond_stage_model.", "clip_l.", 1): t
        for n, t in tensors.items()
        if n.startswith("cond_stage_model.")
    }
    target = comfy.supported_models_base.ClipTarget(Tokenizer, Clip)
    clip = comfy.sd.CLIP(target, embedding_directory=folder_paths.get_folder_paths("embeddings"),
                         parameters=comfy.utils.calculate_parameters(weights),
                         model_options={"dtype": torch.float32}, **patcher_options)
    missing, _ = clip.load_sd(weights, full_model=True)
    if lost := [n for n in missing if not n.endswith(("logit_scale", "text_projection.weight"))]:
        raise ESCDiffError(
            f"{POCKET_PATH} lacks {len(lost)} tensors of its text encoder (first: {lost[0]}); install "
            "it again"
        )
    return clip


def _load_vae(tensors, config: ModelConfig):
    widths = config.vae["block_out_channels"]
    shape = {"double_z": True, "z_channels": config.vae["latent_channels"], "resolution": config.native_size,
             "in_channels": 3, "out_ch": 3, "ch": widths[0], "ch_mult": [w // widths[0] for w in widths],
             "num_res_blocks": config.vae["layers_per_block"], "attn_resolutions": [], "dropout": 0.0}
    weights = {n.removeprefix(VAE_PREFIX): t for n, t in tensors.items() if n.startswith(VAE_PREFIX)}
    return comfy.sd.VAE(sd=weights, dtype=torch.float32,
                        config={"params": {"ddconfig": shape, "embed_dim": config.vae["latent_channels"]}})
