"""Compare textures inside masks, whatever their phase, turning, silhouette and colours.

Two statistics of the subject's Lab pixels, brought to variance 1. How a pattern repeats: its two-point
correlation; that forgets where the pattern begins, the size of its angular harmonics forgets how it is
turned, and dividing by the mask's own correlation forgets the silhouette. What it is made of: how strong
edges, spots and ridges are at three scales.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft, ndimage
from skimage.color import rgb2lab

from .surface import colour_spread, inside

MARGIN = 2            # pixels: the outline, where subject and background mix, has no say
SOFTENING = 0.7       # pixels: noise goes, a pattern of 6 pixels stays
# principal axes of the colours that are read: one would flip between those of three colours
CHANNELS = 2
RADII = np.unique(np.round(np.geomspace(2, 34, 22), 1))    # pixels: lags of the correlation
ANGLES = np.linspace(0, np.pi, 36, endpoint=False)
HARMONICS = (2, 4, 6)                          # correlations are even, so that odd ones vanish
HARMONIC_WEIGHT = 0.7                          # against 1 for the angular mean
OVERLAP = 0.3         # share of the subject that must overlap itself at a lag for that lag to count in full
SCALES = (1.4, 2.8, 5.6)                       # pixels: widths of the derivatives of Gaussians
COARSE = 4.0          # pixels: scales from here on are read at half size
QUANTILES = np.linspace(0.05, 0.95, 10)
# CIELAB spread at which a texture begins; beyond it, that half counts at
FAINT, HALF = 8.0, 20.0


@dataclass(frozen=True)
class Texture:
    """``waves`` (radii, 1 + harmonics), their ``trust`` (radii,), and ``jets`` (scales, kinds, quantiles)."""

    waves: np.ndarray
    trust: np.ndarray
    jets: np.ndarray


@lru_cache(maxsize=1)
def _angular() -> np.ndarray:
    """1, cos 2θ, sin 2θ, cos 4θ, … at ``ANGLES``, (angles, 1 + 2 · harmonics)."""
    return np.stack([np.ones_like(ANGLES), *(f(h * ANGLES) for h in HARMONICS for f in (np.cos, np.sin))], 1)


def _field(image: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The subject's colours along their principal axes, softened, 0 outside ``inner``, variance 1; (channels,
    h, w)."""
    lab = rgb2lab(np.clip(image, 0, 1)).astype(np.float32)
    pixels = lab[inner]
    axes = np.linalg.eigh(np.cov((pixels - pixels.mean(0)).T))[1][:, :-1 - CHANNELS:-1].astype(np.float32)
    weight = inner.astype(np.float32)
    field = np.moveaxis((lab - pixels.mean(0)) @ axes, -1, 0) * weight
    cover = np.maximum(ndimage.gaussian_filter(weight, SOFTENING), 1e-3)
    field = ndimage.gaussian_filter(field, (0, SOFTENING, SOFTENING)) / cover * weight
    return field / max(float(np.sqrt((field ** 2).sum() / weight.sum())), 1e-3)


def _waves(field: np.ndarray, inner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Angular harmonics of the correlation of ``field`` (channels, h, w) at ``RADII``, and how far each is to
    be trusted."""
    # room, so that nothing wraps
    side = fft.next_fast_len(int(max(inner.shape) + RADII[-1]) + 2, real=True)
    def itself(parts):
        return fft.irfft2((np.abs(fft.rfft2(parts, (side, side))) ** 2).sum(0), (side, side))
    overlap = itself(inner[None].astype(np.float32))
    area = float(inner.sum())
    lags = [np.outer(RADII, f(ANGLES)) % side for f in (np.sin, np.cos)]
    polar, shared = (ndimage.map_coordinates(part, lags, order=1, mode="grid-wrap")
                     for part in (itself(field) / np.maximum(overlap, 0.02 * area), overlap / area))
    trust = np.clip(shared / OVERLAP, 0, 1)                                       # (radii, angles)
    basis = _angular()
    normal = np.einsum("ak,ra,al->rkl", basis, trust, basis) + 0.1 * np.eye(basis.shape[1])
    fitted = np.linalg.solve(normal, np.einsum("ak,ra,ra->rk", basis, trust, polar)[..., None])[..., 0]
    return np.concatenate([fitted[:, :1], np.hypot(fitted[:, 1::2], fitted[:, 2::2])], 1), trust.mean(1)


def _halve(values: np.ndarray) -> np.ndarray:
    """Mean of each 2 × 2 block of (h, w)."""
    height, width = (side // 2 * 2 for side in values.shape)
    return values[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3))


def _jets(field: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Quantiles of slope, roundness, ridge, and roundness − ridge of ``field`` (h, w) at ``SCALES``."""
    found = []
    for scale in SCALES:
        values, cover = field, inner.astype(np.float32)
        if scale >= COARSE:
            values, cover, scale = _halve(values), _halve(cover), scale / 2
        def soft(part, width=scale):
            return ndimage.gaussian_filter(part, width, mode="constant", truncate=3)
        level = soft(values) / np.maximum(soft(cover), 0.05)
        dy, dx = np.gradient(level)
        (dyy, dxy), dxx = np.gradient(dy), np.gradient(dx, axis=1)
        round_, ridge = scale ** 2 * np.abs(dxx + dyy), scale ** 2 * np.hypot(dxx - dyy, 2 * dxy)
        where = cover > min(0.5, cover.max() / 2)
        kinds = np.stack([scale * np.hypot(dx, dy), round_, ridge, round_ - ridge])[:, where]
        found.append(np.quantile(kinds, QUANTILES, axis=1).T)
    return np.stack(found)


def texture_of(image: np.ndarray, mask: np.ndarray) -> Texture:
    """Read the texture of the subject ``mask`` bool (h, w) of ``image`` (h, w, 3), sRGB 0 to 1, at working
    size."""
    inner = inside(mask, MARGIN)
    box = ndimage.find_objects(inner.astype(np.int8))[0]
    image, inner = image[box], inner[box]
    contrast = max(colour_spread(image, inner) - FAINT, 0.0)
    gain = contrast / (contrast + HALF)        # half blended away is half lost, whatever the contrast was
    field = _field(image, inner)
    waves, trust = _waves(field, inner)
    return Texture(gain * waves, trust, gain * _jets(field[0], inner))


def texture_distance(a: Texture, b: Texture) -> float:
    """Distance of two textures, 0 to about 1: the root of the mean squared differences of both statistics."""
    trust = np.minimum(a.trust, b.trust)[:, None] * np.array([1.0, *(HARMONIC_WEIGHT for _ in HARMONICS)])
    waves = float(((a.waves - b.waves) ** 2 * trust).sum() / max(float(trust.sum()), 1e-6))
    return float(np.sqrt(waves + ((a.jets - b.jets) ** 2).mean()))
