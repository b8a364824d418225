"""The subject of a photograph, found only where it can be trusted: a wrong mask that nobody is told of is
worse than none.

Nothing here knows what things look like. On a ground that is plain the subject is what differs from it, by
more than the ground differs from itself, and is no soft shadow on it; signs that do not depend on one another
say whether to believe that. Measured on photographs with known masks: benchmarks/photographs.md.
"""

import numpy as np
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.morphology import convex_hull_image
from skimage.transform import resize

from ..errors import ESCDiffError
from .subject import CORE, as_working, background_of, beyond, border_of

SURE = 0.65             # confidence that is asked for; see benchmarks/photographs.md
QUIETEST = 4.0          # CIELAB distance that may still be a picture's compression or a soft shadow
ABOVE_NOISE = 2.0       # how many times further than nine tenths of the ground a subject must be from it
TRIED = (0.6, 1.6)      # other distances, as shares of the chosen one: a subject is found at these as well
TOUCHING = 3.0          # confidence falls to nothing where a third of the border belongs to the subject
SHARPER = 2.0           # a subject's outline is so many times as sharp as the edges of the ground
EDGE, RIM = 1, 2        # pixels: blur of the edges' detector; border that a subject seldom touches
HUE, SOFT = 6.0, 3.0    # CIELAB: how far a shadow's colour is from its ground's; how steep its border is
SOLID = 0.3             # share of its convex hull that a subject fills: less is a drawn line
FRAME = 0.97            # share of its bounding box that a picture in a frame fills, and few subjects do


def subject_of(image: np.ndarray, least: float = SURE) -> tuple[np.ndarray, float]:
    """The subject of a photograph (h, w, 3), float 0 to 1, as a bool mask (h, w), and how sure that is, 0 to
    1.

    Raises ESCDiffError when the background is not plain, when nothing or nearly everything stands out from
    it, or when it is less sure than ``least``.
    """
    lab = rgb2lab(as_working(image)).astype(np.float32)
    background = background_of(lab)
    core = _core(lab, background)
    edges = _edges(lab)
    mask = _lit(lab, background, core, edges)
    stable = _stable(lab, background, core, edges, mask)
    confidence = stable * _inside(mask) * _sharp(edges, mask) * _solid(mask)
    if confidence < least:
        raise ESCDiffError(
            f"no subject found for sure (confidence {confidence:.2f}, needed {least:.2f}): the background is "
            "not plain enough; give a mask"
        )
    if mask.shape != np.asarray(image).shape[:2]:
        mask = resize(mask.astype(np.float32), np.asarray(image).shape[:2], order=1) > 0.5
    return mask, confidence


def _core(lab: np.ndarray, background: np.ndarray) -> float:
    """The distance from the background at which a subject begins: above the ground's own noise."""
    border = np.linalg.norm(lab - background, axis=-1)[border_of(lab.shape[:2])]
    ground = border[border < 1.5 * CORE]        # the rest is a subject that reaches the border
    noise = np.percentile(ground, 90) if len(ground) else CORE
    return float(np.clip(ABOVE_NOISE * noise, QUIETEST, CORE))


def _edges(lab: np.ndarray) -> np.ndarray:
    """How steep the picture (h, w, 3) is everywhere, CIELAB a pixel, (h, w)."""
    return np.linalg.norm(
        [ndimage.gaussian_gradient_magnitude(lab[..., channel], EDGE) for channel in range(3)], axis=0
    )


def _lit(lab: np.ndarray, background: np.ndarray, core: float, edges: np.ndarray) -> np.ndarray:
    """What is further than ``core`` from the background, without its soft shadows: parts as dark as a shadow
    and of the ground's colour, that fade into the ground."""
    mask = beyond(lab, background, core)
    step = lab - background
    dark = mask & (step[..., 0] < 0) & (np.linalg.norm(step[..., 1:], axis=-1) < HUE)
    parts, count = ndimage.label(dark)
    into_ground = ndimage.binary_dilation(~mask)
    for part in range(1, count + 1):
        border = (parts == part) & into_ground
        if border.any() and np.median(edges[border]) < SOFT:
            mask = mask & (parts != part)
    kept = ndimage.binary_opening(mask)         # not the rims that shadows leave
    return kept if kept.any() else mask


def _stable(
    lab: np.ndarray, background: np.ndarray, core: float, edges: np.ndarray, mask: np.ndarray
) -> float:
    """How much of the mask stays when the distance is chosen otherwise: the worst IoU, 0 to 1."""
    shares = []
    for factor in TRIED:
        try:
            other = _lit(lab, background, factor * core, edges)
        except ESCDiffError:
            return 0.0
        shares.append((mask & other).sum() / max((mask | other).sum(), 1))
    return float(min(shares))


def _inside(mask: np.ndarray) -> float:
    """1 for a subject that keeps off the border, less where it takes part of it, 0 to 1."""
    return max(0.0, 1 - TOUCHING * float(mask[border_of(mask.shape, RIM)].mean()))


def _solid(mask: np.ndarray) -> float:
    """1 for a thing, less for a line around one, 0 for a picture that stands in a frame."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1) if len(rows) else 1
    if mask.sum() > FRAME * box and box > mask.size / 2:
        return 0.0
    return min(1.0, float(mask.sum() / max(convex_hull_image(mask).sum(), 1)) / SOLID) if mask.any() else 0.0


def _sharp(edges: np.ndarray, mask: np.ndarray) -> float:
    """How much sharper the outline is than what lies on the ground, 0 to 1: its weaker edges against the
    ground's stronger ones."""
    outline = ndimage.binary_dilation(mask) ^ ndimage.binary_erosion(mask)
    ground = ~ndimage.binary_dilation(mask, iterations=3)
    if not outline.any() or not ground.any():
        return 0.0
    return float(np.clip(np.percentile(edges[outline], 25)
                         / (SHARPER * np.percentile(edges[ground], 90) + 1e-6), 0, 1))
