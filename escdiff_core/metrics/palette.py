"""Name the colours of a picture of the pocket world: which of the twelve stand in it, and in what share."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from scipy import ndimage
from skimage.color import lab2rgb, rgb2lab

from ..worlds.pocket import colours
from .surface import inside

BRIGHTNESS = (0.8, 0.87, 0.94, 1.0, 1.07, 1.14, 1.2)   # the world's soft shading, as a factor on the colour
SHADE_COST = 40.0     # CIELAB units per unit of shading: the unshaded reading of a colour wins when both fit
FLAT = 7.0            # CIELAB change per pixel above which a pixel lies on an edge between two colours
# CIELAB distance to the line between the two named colours that still counts as their mixture
MIXED = 13.0
LEAST = 0.06          # share of the flat pixels a named colour must cover to be there at all
LEAST_OF_ALL = 0.025  # or of all pixels: thin lines and small dots are never flat
STRANGE = 0.15        # share of the subject that may be in colours nobody named
STRANGE_OF_ALL = 0.25  # the same among all pixels, edges included
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
    """The colours away from edges: ``shares`` of the 12 names, CIELAB pixels ``flat`` (n, 3), ``names`` (n,).

    ``every``: the shares among all pixels of the subject.
    """

    shares: dict[str, float]
    every: dict[str, float]
    flat: np.ndarray
    names: np.ndarray

    def middle(self, name: str) -> np.ndarray:
        """The colour that the subject shows for ``name``, CIELAB (3,): the median of its pixels, else the
        region's middle."""
        own = self.flat[self.names == colours.NAMES.index(name)]
        return np.median(own, 0) if len(own) >= LEAST * len(self.names) else colours.to_lab(colours.rgb(name))


def palette(image: np.ndarray, mask: np.ndarray) -> Palette:
    """Read the colours of the subject ``mask`` bool (h, w) of ``image`` (h, w, 3), sRGB 0 to 1."""
    lab = rgb2lab(image).astype(np.float32)
    inner = inside(mask, 2)
    steps = [np.linalg.norm(ndimage.sobel(lab, axis=axis), axis=-1) / 8 for axis in (0, 1)]
    flat = inner & (np.hypot(*steps) < FLAT)
    if flat.sum() < 0.1 * inner.sum():
        flat = inner
    names = colour_names(lab[flat])

    def shares(found: np.ndarray) -> dict[str, float]:
        counts = np.bincount(found, minlength=len(colours.NAMES)) / max(1, len(found))
        return dict(zip(colours.NAMES, counts.tolist(), strict=True))

    return Palette(shares(names), shares(colour_names(lab[inner])), lab[flat], names)


def _along(pixels: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position 0 to 1 of CIELAB pixels (n, 3) on the line between two colours mixed in sRGB, and distance
    from it."""
    share = np.linspace(0, 1, 21, dtype=np.float32)[:, None]
    ends = lab2rgb(np.stack([first, second])[None])[0]
    line = rgb2lab((ends[:1] * (1 - share) + ends[1:] * share)[None])[0].astype(np.float32)
    # Shading moves lightness most; a mixture may be somewhat lighter or darker than the line says.
    weight = np.array([0.6, 1, 1], dtype=np.float32)
    distance = np.linalg.norm((pixels[:, None] - line[None]) * weight, axis=-1)
    return share[distance.argmin(1), 0], distance.min(1)


def colours_right(found: Palette, names: tuple[str, ...], gradient: bool = False) -> bool:
    """Is the subject in the named colours, each with a share that can be seen, and in little else?

    ``gradient``: the two colours flow into each other, so that mixtures count and the ends may lie outside
    the subject.
    """
    if len(set(names)) == 1:
        return found.shares[names[0]] >= 1 - STRANGE and found.every[names[0]] >= 1 - STRANGE_OF_ALL
    wanted = np.isin(found.names, [colours.NAMES.index(name) for name in names])
    pairs = [_along(found.flat, found.middle(a), found.middle(b)) for a, b in combinations(names, 2)]
    position, distance = pairs[0][0], np.min([d for _, d in pairs], 0)
    strange = float((~wanted & (distance > MIXED)).mean())
    if gradient:
        low, high = np.percentile(position, (4, 96))
        return strange <= STRANGE and high - low >= SPREAD and low < 0.5 < high
    there = all(found.shares[n] >= LEAST or found.every[n] >= LEAST_OF_ALL for n in names)
    return strange <= STRANGE and there
