"""Write single-file checkpoints in the original Stable Diffusion layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..files import write_safetensors
from ..model.checkpoint import module_config
from ..model.clip_names import nested, to_open_clip
from ..model.infer import UNET_PREFIX, VAE_PREFIX
from ..model.names import to_canonical, unet_map, vae_map
from . import FAMILIES
from .recognise import CONFIG_KEY

VAE_ATTENTION = tuple(f"mid.attn_1.{p}.weight" for p in ("q", "k", "v", "proj_out"))
Texts = torch.nn.Module | Mapping[str, torch.nn.Module]     # the one encoder, or each tower's by its name


def write_checkpoint(path: str | Path, unet: torch.nn.Module, vae: torch.nn.Module, texts: Texts,
                     config: Mapping[str, Any] | None, dtype: torch.dtype = torch.float16,
                     family: str = "sd15") -> None:
    """Write one safetensors file in the original SD layout of ``family``; the path never holds half a file.

    ``unet``, ``vae`` are diffusers' UNet2DConditionModel and AutoencoderKL, ``texts`` transformers'
    CLIPTextModels. ``config`` (SD 1.x's anatomy alone) holds ``scheduler``, ``native_size`` and ``tokenizer``
    (see family.ModelConfig); the modules' own configurations are filled in where it does not name ``unet``,
    ``vae``, ``text_encoder``. None writes no configuration: a plain file of the family. Raises ESCDiffError
    when the file cannot be written or does not end in ``.safetensors``.
    """
    tensors = canonical_tensors(unet, vae, texts, family)
    tensors = {n: t.detach().to("cpu", dtype).contiguous() for n, t in tensors.items()}
    if config is None:
        write_safetensors(tensors, path)
        return
    own = {"unet": module_config(unet), "vae": module_config(vae), "text_encoder": module_config(texts)}
    write_safetensors(tensors, path, CONFIG_KEY, json.dumps({**own, **config}))


def canonical_tensors(
    unet: torch.nn.Module, vae: torch.nn.Module, texts: Texts, family: str = "sd15"
) -> dict[str, torch.Tensor]:
    """Return all tensors of the modules under the names and in the shapes of the family's original layout."""
    vae_tensors = to_canonical(vae.state_dict(), vae_map(vae.config))
    for name in vae_tensors:
        if name.endswith(VAE_ATTENTION):  # the original's attention is made of 1x1 convolutions
            vae_tensors[name] = vae_tensors[name][:, :, None, None]
    parts = [(UNET_PREFIX, to_canonical(unet.state_dict(), unet_map(unet.config))), (VAE_PREFIX, vae_tensors)]
    for row in FAMILIES[family].towers:
        state = nested((texts[row.name] if isinstance(texts, Mapping) else texts).state_dict())
        parts.append((row.prefix, to_open_clip(state) if row.layout == "open_clip" else state))
    return {prefix + name: tensor for prefix, state in parts for name, tensor in state.items()}
