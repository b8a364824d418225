"""A view of a reference, and the geometry that view sources share: move a subject, lay it on a ground, carry
a surface on."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.transform import AffineTransform, warp

MIRRORS = 4                 # how often a surface is mirrored at its edge before its edge is drawn out


@dataclass(frozen=True)
class View:
    """``image`` float32 (h, w, 3), ``mask`` float32 (h, w); ``rest`` and ``behind`` are the words for a
    template."""

    image: np.ndarray
    mask: np.ndarray
    rest: str = ""
    behind: str = ""


Drawer = Callable[[np.random.Generator], View]


@dataclass(frozen=True)
class ViewSource:
    """A way to draw views: ``of(image, mask)`` looks at a picture (h, w, 3) and its subject's mask (h, w)
    once, and answers with what draws a view of them for each generator. One that ``needs_bank`` is given what
    the model draws of its own as well, ``bank=`` a bank.Bank."""

    of: Callable[..., Drawer]
    needs_outline: bool = False          # the subject's outline shows in the view, so there must be one
    needs_bank: bool = False


def _similarity(centre: np.ndarray, target: np.ndarray, scale: float, degrees: float) -> AffineTransform:
    """Rotate and scale about ``centre``, then move ``centre`` to ``target``; pixels, (x, y)."""
    a = np.radians(degrees)
    turn = scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = turn, target - turn @ centre
    return AffineTransform(matrix=matrix)


def move_subject(mask: np.ndarray, image: np.ndarray, rng: np.random.Generator, scales: tuple[float, float],
           degrees: float, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Scale and turn a masked picture, and move it up to ``reach`` of the way to the frame's edge. Returns
    (mask, image)."""
    h, w = mask.shape
    frame = np.array([w, h])
    scale, jitter, turn = rng.uniform(*scales), rng.uniform(-reach, reach, 2), rng.uniform(-degrees, degrees)
    points = np.argwhere(mask > 0.5)[:, ::-1] + 0.5                                         # (n, 2), (x, y)
    centre = points.mean(0)
    turned = _similarity(centre, np.zeros(2), 1, turn)(points)
    low, high = turned.min(0) - 1, turned.max(0) + 1                # a pixel of margin for the interpolation
    scale = min(scale, 0.97 * float((frame / (high - low)).min()))
    slack = np.maximum(frame - scale * (high - low), 0) / 2
    target = frame / 2 + jitter * slack - scale * (low + high) / 2
    inverse = _similarity(centre, target, scale, turn).inverse
    return (warp(mask, inverse, order=1, mode="constant"), warp(image, inverse, order=1, mode="edge"))


def composite(front: np.ndarray, back: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``front`` (h, w, 3) where ``mask`` (h, w) is 1, ``back`` where it is 0, float32."""
    return np.clip(back + mask[..., None] * (front - back), 0, 1).astype(np.float32)


def mirrored_outwards(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The surface inside the mask, carried on beyond it: every pixel outside shows its mirror image across
    the nearest edge."""
    core = ndimage.binary_erosion(mask > 0.9, iterations=2)
    core = core if core.any() else mask > 0.5
    edge = ndimage.distance_transform_edt(~core, return_distances=False, return_indices=True)      # (2, h, w)
    last = np.array(mask.shape)[:, None, None] - 1
    at = np.indices(mask.shape)
    for _ in range(MIRRORS):
        at = np.where(core[tuple(at)], at, np.clip(2 * edge[:, at[0], at[1]] - at, 0, last))
    at = np.where(core[tuple(at)], at, edge[:, at[0], at[1]])
    return image[tuple(at)]


def surface_from_within(
    image: np.ndarray, mask: np.ndarray
) -> Callable[[np.random.Generator], np.ndarray]:
    """What gives the surface inside the mask over all of the picture, (h, w, 3), with a random spot of the
    subject's middle at its centre."""
    surface = mirrored_outwards(image, mask)
    inside = ndimage.distance_transform_edt(np.pad(mask > 0.5, 1))[1:-1, 1:-1]
    spots = np.argwhere(inside > 0.6 * inside.max())

    def give(rng: np.random.Generator) -> np.ndarray:
        y, x = spots[rng.integers(len(spots))]
        rows, columns = (
            np.clip(np.arange(length) + middle - length // 2, 0, length - 1)
            for middle, length in zip((y, x), mask.shape, strict=True)
        )
        return surface[rows][:, columns]

    return give


def unchanged(image: np.ndarray, mask: np.ndarray) -> Drawer:
    """The reference as it is; the words come from the user's description, if any."""
    view = View(image.astype(np.float32), mask.astype(np.float32))
    return lambda rng: view
