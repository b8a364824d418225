"""Compare appearances inside masks: colours by sliced Wasserstein distance, texture by two-point statistics.

Two-point correlations forget where a pattern begins; the size of their angular harmonics forgets how it is turned; and
dividing by the mask's own correlation forgets the silhouette. What is left is the kind of pattern and its scale.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import ot
from scipy import fft, ndimage
from skimage.color import rgb2lab

from .surface import colour_spread, inside, signal, smooth

MARGIN = 2            # pixels: the outline, where subject and background mix, has no say
PIXELS = 768          # pixels of a subject that stand for its colours
PROJECTIONS = 48      # directions of the sliced distance, the same for every pair
HALVING = 2           # textures are read at half the working size
CANVAS = 128          # pixels a side of the correlation at that size: room for a subject and no wrapping
RADII = np.arange(2, 17)                       # pixels at half size: lags from 4 to 32 pixels of a 128-pixel picture
ANGLES = np.linspace(0, np.pi, 36, endpoint=False)
HARMONICS = (2, 4, 6)                          # correlations are even, so that odd ones vanish
HARMONIC_WEIGHT = 0.7                          # against 1 for the angular mean
OVERLAP = 0.3         # share of the subject that must overlap itself at a lag for that lag to count in full
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)          # of the signal's size: sharp halves, few dots or soft slopes
QUANTILE_WEIGHT = 0.3
FAINT, PLAIN_TO_SEE = 8.0, 28.0                # CIELAB spread at which a texture begins, and fully counts


@dataclass(frozen=True)
class Texture:
    """Two-point statistics: ``waves`` (radii, 1 + harmonics), their ``trust`` (radii,), ``levels`` (quantiles,)."""

    waves: np.ndarray
    trust: np.ndarray
    levels: np.ndarray


@dataclass(frozen=True)
class Appearance:
    """What a subject looks like whatever its shape: CIELAB ``pixels`` (n, 3) and ``texture``."""

    pixels: np.ndarray
    texture: Texture


@lru_cache(maxsize=1)
def _projections() -> np.ndarray:
    """Fixed directions in CIELAB, float32 (3, PROJECTIONS)."""
    return ot.sliced.get_random_projections(3, PROJECTIONS, seed=0).astype(np.float32)


@lru_cache(maxsize=1)
def _angular() -> np.ndarray:
    """1, cos 2θ, sin 2θ, cos 4θ, … at ``ANGLES``, (angles, 1 + 2 · harmonics)."""
    return np.stack([np.ones_like(ANGLES), *(f(h * ANGLES) for h in HARMONICS for f in (np.cos, np.sin))], 1)


def _halve(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of ``values`` over the masked pixels of each 2 × 2 block, and the blocks mostly masked; (h/2, w/2) each."""
    height, width = (side // HALVING * HALVING for side in mask.shape)
    def blocks(part):
        return part[:height, :width].reshape(height // HALVING, HALVING, width // HALVING, HALVING).mean((1, 3))
    weight = mask.astype(np.float32)
    cover = blocks(weight)
    return blocks(values * weight) / np.maximum(cover, 1e-3), cover > 0.6


def texture_of(image: np.ndarray, mask: np.ndarray) -> Texture:
    """Read the texture of the subject ``mask`` bool (h, w) of ``image`` (h, w, 3), sRGB 0 to 1, at working size."""
    inner = inside(mask, MARGIN)
    image = smooth(image, inner)
    gain = float(np.clip((colour_spread(image, inner) - FAINT) / (PLAIN_TO_SEE - FAINT), 0, 1))
    values, cover = _halve(signal(image, inner), inner)
    area = max(float(cover.sum()), 1.0)
    values = (values - values[cover].mean() if cover.any() else values) * cover
    values = values / np.sqrt(max(float((values * values).sum()) / area, 1e-6))
    itself = [fft.irfft2(np.abs(fft.rfft2(part.astype(np.float32), (CANVAS, CANVAS))) ** 2, (CANVAS, CANVAS))
              for part in (values, cover)]
    correlation = gain * itself[0] / np.maximum(itself[1], 0.02 * area)
    lags = [np.outer(RADII, f(ANGLES)) % CANVAS for f in (np.sin, np.cos)]
    polar, overlap = (ndimage.map_coordinates(part, lags, order=1, mode="grid-wrap")
                      for part in (correlation, itself[1] / area))
    trust = np.clip(overlap / OVERLAP, 0, 1)                                      # (radii, angles)
    basis = _angular()
    normal = np.einsum("ak,ra,al->rkl", basis, trust, basis) + 0.1 * np.eye(basis.shape[1])
    fitted = np.linalg.solve(normal, np.einsum("ak,ra,ra->rk", basis, trust, polar)[..., None])[..., 0]
    waves = np.concatenate([fitted[:, :1], np.hypot(fitted[:, 1::2], fitted[:, 2::2])], 1)
    levels = gain * np.quantile(np.abs(values[cover]), QUANTILES) if cover.any() else np.zeros(len(QUANTILES))
    return Texture(waves, trust.mean(1), levels)


def appearance_of(image: np.ndarray, mask: np.ndarray) -> Appearance:
    """Read colours and texture of the subject ``mask`` bool (h, w) of ``image`` (h, w, 3), sRGB 0 to 1."""
    pixels = rgb2lab(image).astype(np.float32)[inside(mask, MARGIN)]
    chosen = np.linspace(0, len(pixels) - 1, min(PIXELS, len(pixels))).astype(int)
    return Appearance(pixels[chosen], texture_of(image, mask))


def colour_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Sliced 2-Wasserstein distance of two sets of CIELAB pixels (n, 3), (m, 3), in CIELAB units.

    Bonneel et al. (2015), computed by POT along fixed directions.
    """
    return float(ot.sliced_wasserstein_distance(a, b, projections=_projections(), p=2))


def texture_distance(a: Texture, b: Texture) -> float:
    """Distance of two textures, 0 to about 1, blind to phase, turning, silhouette and colours."""
    trust = np.minimum(a.trust, b.trust)[:, None] * np.array([1.0, *(HARMONIC_WEIGHT for _ in HARMONICS)])
    waves = float(((a.waves - b.waves) ** 2 * trust).sum() / max(float(trust.sum()), 1e-6))
    levels = float(((a.levels - b.levels) ** 2).mean())
    return float(np.sqrt(waves + QUANTILE_WEIGHT ** 2 * levels))
