"""Read single-file checkpoints in the original Stable Diffusion layout. safetensors only, never a pickle."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import ESCDiffError

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")


@dataclass(frozen=True)
class CheckpointFile:
    """The header of a safetensors file: tensor shapes and metadata. Tensors are read on demand by
    :meth:`read`."""

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
            f"{path} is a pickle, which can run any program when opened; give the .safetensors version "
            "of the model"
        )
    if not path.is_file():
        raise ESCDiffError(
            f"model file {path} does not exist; give a .safetensors file or a diffusers folder"
        )
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape())
                      for name in file.keys()}  # noqa: SIM118 (no dict)
            return CheckpointFile(path, shapes, file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def module_config(module: torch.nn.Module) -> dict[str, Any]:
    """The configuration of a diffusers or transformers module as JSON data, without private and version
    entries."""
    config = module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)
    return {
        k: v
        for k, v in config.items()
        if not k.startswith("_") and k not in ("transformers_version", "dtype")
    }


def _unreadable(path: Path, error: Exception) -> ESCDiffError:
    return ESCDiffError(
        f"{path} cannot be read as a safetensors file ({error}); it is truncated, damaged or of "
        "another kind: copy or download it again"
    )
