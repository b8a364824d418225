"""Stage 1: what the UNet's down path and OpenCLIP see in the reference, before anything is learned."""

import hashlib
import logging
import pickle
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import nn

from ..errors import ESCDiffError
from ..model.diffusion import DiffusionModel
from ..model.text import encode_prompts
from ..registry import Tower, worlds
from ..unet.halves import encode

log = logging.getLogger(__name__)
# What torch, safetensors and open_clip raise for a file that is damaged or holds something else
UNREADABLE = (RuntimeError, OSError, KeyError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError)
NOISE_DRAWS = 4   # features are averaged over so many noises: one draw at t = 250 still moves them by a tenth


@dataclass(frozen=True)
class ReferenceFeatures:
    """``unet`` (n,): pooled down-block and middle outputs; ``clip`` (m,) CLS embedding of unit norm, or
    None."""

    unet: torch.Tensor
    clip: torch.Tensor | None


@dataclass(frozen=True)
class ReferenceEncoder:
    """An OpenCLIP vision tower and how it wants its pictures."""

    tower: nn.Module
    size: int                             # pixels a side
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of the weights as fp16 and of how pictures are prepared: the same encoder on any
        machine has the same."""
        digest = hashlib.sha256(repr((self.size, self.mean, self.std)).encode())
        for name, tensor in sorted(self.tower.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().to("cpu", torch.float16).contiguous().numpy())
        return digest.hexdigest()

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures (b, h, w, 3), 0 to 1, to embeddings of unit norm, (b, m)."""
        pixels = F.interpolate(
            images.permute(0, 3, 1, 2).float(), size=(self.size, self.size), mode="bilinear", antialias=True,
            align_corners=False)
        mean, std = (torch.tensor(v, device=pixels.device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return F.normalize(self.tower((pixels - mean) / std), dim=-1)


def load_encoder(source: str | Path, device: torch.device | str = "cpu") -> ReferenceEncoder:
    """Load the tower of a world by its name (``"pocket"``), or OpenCLIP's ViT-B/32 from a local file.

    Raises ESCDiffError when the file is missing or is not what it should be: one sentence with where it
    looked.
    """
    world = worlds().get(str(source))
    path = world.tower_file if world else Path(source)
    if not path.is_file():
        raise ESCDiffError(
            f"no vision tower at {path}; put OpenCLIP's ViT-B-32 weights (open_clip_model.safetensors) "
            "there, or go without: the UNet's features work alone"
        )
    try:
        tower = world.read_tower() if world else _read_vit_b_32(path)
    except UNREADABLE as error:
        what = f"the {world.name}'s tower" if world else "OpenCLIP's ViT-B-32"
        raise ESCDiffError(
            f"{path} does not hold {what} ({type(error).__name__}); give open_clip_model.safetensors "
            "of a ViT-B-32 release, or go without"
        ) from error
    network = tower.network.to(device).eval().requires_grad_(False)
    return ReferenceEncoder(network, tower.size, tower.mean, tower.deviation)


def _read_vit_b_32(path: Path) -> Tower:
    import open_clip
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    return Tower(
        open_clip.create_model("ViT-B-32", pretrained=str(path)).visual, 224, OPENAI_DATASET_MEAN,
        OPENAI_DATASET_STD)


def unet_feature_width(model: DiffusionModel) -> int:
    """How many UNet features there are: every skip tensor's channels and the middle's (10 880 for SD 1.5)."""
    widths = model.unet.config.block_out_channels
    layers = model.unet.config.layers_per_block
    return widths[0] + sum(w * layers for w in widths) + sum(widths[:-1]) + widths[-1]


@torch.no_grad()
def reference_features(model: DiffusionModel, latents: torch.Tensor, images: torch.Tensor,
                       timestep: int = 250, encoder: ReferenceEncoder | None = None,
                       seed: int = 0) -> ReferenceFeatures:
    """Read the features of a reference (E4T, Gal et al. 2023, with CLIP fused in as ESCDiff proposes).

    ``latents`` (b, 4, h, w) and ``images`` (b, H, W, 3) of the same reference or references, which are
    averaged. The noised latent at ``timestep`` (0 to T-1) goes through the down path with the empty prompt;
    every skip and the middle are averaged over space.
    """
    steps = model.schedule.num_train_timesteps
    if not 0 <= timestep < steps:
        raise ESCDiffError(f"the feature timestep must lie between 0 and {steps - 1}, not {timestep}")
    if encoder is None:
        log.info("no OpenCLIP encoder: the UNet's features alone feed the filter")
    alpha = model.schedule.alphas_cumprod()[timestep]
    generator = torch.Generator().manual_seed(seed)
    z = latents.repeat_interleave(NOISE_DRAWS, 0)
    noise = torch.randn(z.shape, generator=generator).to(z)
    x = (alpha.sqrt() * z + (1 - alpha).sqrt() * noise).to(model.unet.dtype)
    empty = encode_prompts(model, [""]).expand(len(x)).to(x)
    seen = encode(model.unet, x, torch.full((len(x),), timestep, device=x.device), empty)
    # (b * draws, n)
    pooled = torch.cat([f.float().mean((2, 3)) for f in (*seen.skips, seen.sample)], dim=1)
    clip = F.normalize(encoder(images.to(model.device)).mean(0), dim=0) if encoder is not None else None
    return ReferenceFeatures(pooled.mean(0), clip)
