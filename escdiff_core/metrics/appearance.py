"""Compare appearances inside masks: colours by sliced Wasserstein distance, texture by what :mod:`.texture`
reads."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import ot
from skimage.color import rgb2lab

from .surface import inside
from .texture import MARGIN, Texture, texture_of

PIXELS = 1536         # pixels of a subject that stand for its colours
PROJECTIONS = 48      # directions of the sliced distance, the same for every pair
LEVELS = (np.arange(64) + 0.5) / 64            # quantiles that stand for a projection's distribution


@dataclass(frozen=True)
class Appearance:
    """What a subject looks like whatever its shape: ``colours``, quantiles of CIELAB projections, and
    ``texture``."""

    colours: np.ndarray   # (levels, projections)
    texture: Texture


@lru_cache(maxsize=1)
def _projections() -> np.ndarray:
    """Fixed directions in CIELAB, float32 (3, PROJECTIONS)."""
    return ot.sliced.get_random_projections(3, PROJECTIONS, seed=0).astype(np.float32)


def colours_of(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Quantiles of the subject's colours along each projection, (levels, projections), in CIELAB units."""
    pixels = image[inside(mask, MARGIN)]
    chosen = pixels[np.linspace(0, len(pixels) - 1, min(PIXELS, len(pixels))).astype(int)]
    return np.quantile(rgb2lab(np.clip(chosen, 0, 1)) @ _projections(), LEVELS, axis=0)


def appearance_of(image: np.ndarray, mask: np.ndarray) -> Appearance:
    """Read colours and texture of the subject ``mask`` bool (h, w) of ``image`` (h, w, 3), sRGB 0 to 1."""
    return Appearance(colours_of(image, mask), texture_of(image, mask))


def colour_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Sliced 2-Wasserstein distance of two subjects' ``colours`` (levels, projections), in CIELAB units.

    Bonneel et al. (2015): along one direction it is the distance of the quantile functions.
    """
    return float(np.sqrt(((a - b) ** 2).mean()))
