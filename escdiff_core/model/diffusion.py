"""A loaded model: UNet, autoencoder, text towers, and the facts of its family."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from ..choices import USUAL_GUIDANCE
from ..errors import ESCDiffError
from ..registry import world_of
from .names import to_canonical, unet_map
from .schedule import NoiseSchedule
from .towers import TextTower


@dataclass(frozen=True, eq=False)
class DiffusionModel:
    """A loaded model. All parts are in eval mode and frozen; ``dataclasses.replace`` makes a variant.

    ``fingerprint`` names the base UNet weights (see :func:`fingerprint`), ``native_size`` is in pixels,
    ``family`` is a row of families.FAMILIES.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    towers: tuple[TextTower, ...]
    schedule: NoiseSchedule
    native_size: int
    fingerprint: str
    device: torch.device
    family: str
    source: str

    @property
    def text_encoder(self) -> CLIPTextModel:
        """The first tower's, for models that have no other."""
        return self.towers[0].encoder

    @property
    def tokenizer(self) -> CLIPTokenizer:
        """The first tower's; all towers of a family have the same words."""
        return self.towers[0].tokenizer

    @property
    def usual_guidance(self) -> float:
        """The guidance scale to draw with where nobody asks for another."""
        world = world_of(self.source)
        return world.guidance if world else USUAL_GUIDANCE


def resolve_device(device: str | torch.device) -> torch.device:
    """Turn ``auto | cpu | cuda | cuda:N`` into a device that exists here. Raises ESCDiffError for anything
    else."""
    name = str(device)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if name != "cpu" and (kind != "cuda" or not (number.isdecimal() or name == "cuda")):
        raise ESCDiffError(f"unknown device {name!r}; known: auto, cpu, cuda, cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ESCDiffError(
            f"device {name!r} is not here ({torch.cuda.device_count()} GPUs found); use auto or cpu"
        )
    return torch.device(name)


def fingerprint(unet_state: Mapping[str, torch.Tensor], unet_config: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of a UNet's weights: canonical names, shapes and values, in the order of the
    names.

    ``unet_state`` has diffusers' names. Values are hashed as fp16, so the same weights have the same
    fingerprint in a single file or a folder, stored in fp32 or rounded to fp16. A file rounded to bf16 counts
    as another model.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(to_canonical(unet_state, unet_map(unet_config)).items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().to("cpu", torch.float16).contiguous().numpy())
    return digest.hexdigest()
