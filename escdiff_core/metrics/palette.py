"""Name the colours of a picture of the pocket world: which of the twelve stand in it, and in what share."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage
from skimage.color import rgb2lab

from ..pocket import colours
from .surface import inside

BRIGHTNESS = (0.8, 0.87, 0.94, 1.0, 1.07, 1.14, 1.2)   # the world's soft shading, as a factor on the colour
SHADE_COST = 40.0     # CIELAB units per unit of shading: the unshaded reading of a colour wins when both fit
FLAT = 7.0            # CIELAB change per pixel above which a pixel lies on an edge between two colours
MIXED = 13.0          # CIELAB distance to the line between the two named colours that still counts as their mixture
LEAST = 0.06          # share of the subject a named colour must cover to be there at all
STRANGE = 0.15        # share of the subject that may be in colours nobody named
SPREAD = 0.3          # share of the way from one colour to the other a gradient must at least show


@lru_cache(maxsize=1)
def _shades() -> tuple[np.ndarray, np.ndarray]:
    """Every named colour at every brightness, CIELAB (12, k, 3), and the cost of that brightness (k,)."""
    factor = np.asarray(BRIGHTNESS, dtype=np.float32)
    table = np.stack([colours.rgb(name) for name in colours.NAMES])
    shades = np.clip(table[:, None] * factor[None, :, None], 0, 1)
    return rgb2lab(shades).astype(np.float32), SHADE_COST * np.abs(factor - 1)


def colour_names(lab: np.ndarray) -> np.ndarray:
    """Index into ``colours.NAMES`` of the nearest named colour, shading allowed, of CIELAB pixels (n, 3)."""
    shades, cost = _shades()
    flat = shades.reshape(-1, 3)
    square = (lab * lab).sum(1)[:, None] - 2 * lab @ flat.T + (flat * flat).sum(1)
    distance = np.sqrt(np.maximum(square, 0)).reshape(len(lab), *shades.shape[:2]) + cost
    return distance.min(2).argmin(1)


@dataclass(frozen=True)
class Palette:
    """The colours away from edges: ``shares`` of the 12 names, CIELAB pixels ``flat`` (n, 3), ``names`` (n,)."""

    shares: dict[str, float]
    flat: np.ndarray
    names: np.ndarray


def palette(image: np.ndarray, mask: np.ndarray) -> Palette:
    """Read the colours of the subject ``mask`` bool (h, w) of ``image`` (h, w, 3), sRGB 0 to 1."""
    lab = rgb2lab(image).astype(np.float32)
    inner = inside(mask, 2)
    steps = [np.linalg.norm(ndimage.sobel(lab, axis=axis), axis=-1) / 8 for axis in (0, 1)]
    flat = inner & (np.hypot(*steps) < FLAT)
    if flat.sum() < 0.1 * inner.sum():
        flat = inner
    names = colour_names(lab[flat])
    counts = np.bincount(names, minlength=len(colours.NAMES)) / max(1, len(names))
    return Palette(dict(zip(colours.NAMES, counts.tolist(), strict=True)), lab[flat], names)


def _along(pixels: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position 0 to 1 of CIELAB pixels (n, 3) on the line between two colours mixed in sRGB, and distance from it."""
    share = np.linspace(0, 1, 21, dtype=np.float32)
    line = rgb2lab((first * (1 - share[:, None]) + second * share[:, None])[None])[0].astype(np.float32)
    # Shading moves lightness most; a mixture may be somewhat lighter or darker than the line says.
    weight = np.array([0.6, 1, 1], dtype=np.float32)
    distance = np.linalg.norm((pixels[:, None] - line[None]) * weight, axis=-1)
    return share[distance.argmin(1)], distance.min(1)


def colours_right(found: Palette, names: tuple[str, ...], gradient: bool = False) -> bool:
    """Is the subject in the named colours, each with a share that can be seen, and in little else?

    ``gradient``: the two colours flow into each other, so that mixtures count and the ends may lie outside the subject.
    """
    if len(set(names)) == 1:
        return found.shares[names[0]] >= 1 - STRANGE
    first, second = colours.rgb(names[0]), colours.rgb(names[1])
    wanted = np.isin(found.names, [colours.NAMES.index(name) for name in names])
    position, distance = _along(found.flat, first, second)
    strange = float((~wanted & (distance > MIXED)).mean())
    if gradient:
        low, high = np.percentile(position, (4, 96))
        return strange <= STRANGE and high - low >= SPREAD and low < 0.5 < high
    return strange <= STRANGE and min(found.shares[name] for name in names) >= LEAST
