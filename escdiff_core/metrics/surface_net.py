"""Name a subject's surface by its texture: a small network on the judge's own statistics, which know no
colours.

Lattices could be recognised by drawing them again; spots, marble or leaves never come back the same.
``train_surface_net`` trains it on exact drawings of every surface of the world, half of them passed through
the autoencoder.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from ..errors import ESCDiffError, lookup
from ..worlds.pocket import patterns
from ..worlds.pocket.config import SURFACE_NET
from .texture import HARMONICS, QUANTILES, RADII, SCALES, Texture, texture_of

KINDS = 4             # of jets: slope, roundness, ridge, and the difference of the last two
WIDTH = 192
FEATURES = len(RADII) * (2 + len(HARMONICS)) + len(SCALES) * KINDS * len(QUANTILES)


def names() -> list[str]:
    """The surfaces it tells apart: all that have a name, held-out ones too."""
    return [name for name in patterns.ALL if name != patterns.UNNAMED]


def features(texture: Texture) -> np.ndarray:
    """A texture's statistics as one vector, float32 (FEATURES,)."""
    waves = texture.waves * texture.trust[:, None]
    return np.concatenate([waves.ravel(), texture.trust, texture.jets.ravel()]).astype(np.float32)


class SurfaceNet(nn.Module):
    """Features (b, FEATURES), brought to mean 0 and deviation 1, to one score per surface, (b, n)."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("deviation", torch.ones(FEATURES))
        self.layers = nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.SiLU(), nn.Dropout(dropout),
                                    nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Dropout(dropout),
                                    nn.Linear(WIDTH, len(names())))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers((x - self.mean) / self.deviation)


@lru_cache(maxsize=1)
def load(path: Path = SURFACE_NET) -> SurfaceNet:
    """The trained network, fp32, on the CPU."""
    net = SurfaceNet()
    net.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return net.eval()


@torch.inference_mode()
def surface_scores(image: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Probability of each named surface for the subject ``mask`` bool (h, w) of ``image`` (h, w, 3), sRGB 0
    to 1."""
    scores = load()(torch.from_numpy(features(texture_of(image, mask)))[None]).softmax(1)[0]
    return dict(zip(names(), scores.tolist(), strict=True))


def best_surface(
    image: np.ndarray, mask: np.ndarray, candidates: tuple[str, ...] = tuple(patterns.KNOWN)
) -> str:
    """The candidate surface that the subject ``mask`` bool (h, w) of ``image`` (h, w, 3) shows.

    Raises ESCDiffError for an unknown surface, or for none.
    """
    if not candidates:
        raise ESCDiffError("no surface to choose from; give at least one name")
    scores = surface_scores(image, mask)
    return max(candidates, key=lambda name: lookup(scores, name, "pattern"))
