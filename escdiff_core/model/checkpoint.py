"""Read and write single-file checkpoints in the original Stable Diffusion layout. safetensors only, never a pickle."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import ESCDiffError
from ..files import write_safetensors
from .families import CONFIG_KEY
from .infer import TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX
from .names import text_map, to_canonical, unet_map, vae_map

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
VAE_ATTENTION = tuple(f"mid.attn_1.{p}.weight" for p in ("q", "k", "v", "proj_out"))


@dataclass(frozen=True)
class CheckpointFile:
    """The header of a safetensors file: tensor shapes and metadata. Tensors are read on demand by :meth:`read`."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]

    def read(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return the tensors whose name starts with ``prefix``, on the CPU, in the dtype of the file."""
        try:
            with safe_open(self.path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in self.shapes if name.startswith(prefix)}
        except (SafetensorError, OSError) as error:
            raise _unreadable(self.path, error) from error


def open_checkpoint(path: str | Path) -> CheckpointFile:
    """Read the header of a safetensors file.

    Raises ESCDiffError when the file is missing, a pickle, truncated, or its header is not true.
    """
    path = Path(path)
    if path.suffix.lower() in PICKLES:
        raise ESCDiffError(
            f"{path} is a pickle, which can run any program when opened; give the .safetensors version of the model"
        )
    if not path.is_file():
        raise ESCDiffError(f"model file {path} does not exist; give a .safetensors file or a diffusers folder")
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no dict)
            return CheckpointFile(path, shapes, file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def write_checkpoint(
    path: str | Path,
    unet: torch.nn.Module,
    vae: torch.nn.Module,
    text_encoder: torch.nn.Module,
    config: Mapping[str, Any] | None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write one safetensors file in the original SD layout; the path never holds half a file.

    ``unet``, ``vae``, ``text_encoder`` are diffusers' UNet2DConditionModel and AutoencoderKL and transformers'
    CLIPTextModel. ``config`` holds ``scheduler``, ``native_size`` and ``tokenizer`` (see families.ModelConfig); the
    modules' own configurations are filled in where it does not name ``unet``, ``vae``, ``text_encoder``. None writes
    no configuration: a plain SD 1.x file. Raises ESCDiffError when the file cannot be written or does not end in
    ``.safetensors``.
    """
    tensors = canonical_tensors(unet, vae, text_encoder)
    tensors = {n: t.detach().to("cpu", dtype).contiguous() for n, t in tensors.items()}
    if config is None:
        write_safetensors(tensors, path)
        return
    own = {"unet": module_config(unet), "vae": module_config(vae), "text_encoder": module_config(text_encoder)}
    write_safetensors(tensors, path, CONFIG_KEY, json.dumps({**own, **config}))


def canonical_tensors(
    unet: torch.nn.Module, vae: torch.nn.Module, text_encoder: torch.nn.Module
) -> dict[str, torch.Tensor]:
    """Return all tensors of the three modules under the names and in the shapes of the original SD layout."""
    vae_tensors = to_canonical(vae.state_dict(), vae_map(vae.config))
    for name in vae_tensors:
        if name.endswith(VAE_ATTENTION):  # the original's attention is made of 1x1 convolutions
            vae_tensors[name] = vae_tensors[name][:, :, None, None]
    parts = (
        (UNET_PREFIX, to_canonical(unet.state_dict(), unet_map(unet.config))),
        (VAE_PREFIX, vae_tensors),
        (TEXT_PREFIX, to_canonical(nested_text_state(text_encoder), text_map(text_encoder.config.to_dict()))),
    )
    return {prefix + name: tensor for prefix, state in parts for name, tensor in state.items()}


def nested_text_state(text_encoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The text encoder's tensors named ``text_model.…``, which transformers 5.6 dropped and the file layout kept."""
    state = {n.removeprefix("text_model."): t for n, t in text_encoder.state_dict().items()}
    return {f"text_model.{n}": t for n, t in state.items() if not n.endswith("position_ids")}


def module_config(module: torch.nn.Module) -> dict[str, Any]:
    """The configuration of a diffusers or transformers module as JSON data, without private and version entries."""
    config = module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)
    return {k: v for k, v in config.items() if not k.startswith("_") and k not in ("transformers_version", "dtype")}


def _unreadable(path: Path, error: Exception) -> ESCDiffError:
    return ESCDiffError(
        f"{path} cannot be read as a safetensors file ({error}); it is truncated, damaged or of another kind: "
        "copy or download it again"
    )
