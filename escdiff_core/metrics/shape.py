"""Compare silhouettes: IoU and boundary F-score after the best translation, scale and small rotation.

Both masks are first brought to the same area and centroid, so that only small corrections are left to search.
Every coarse candidate is one row of a matrix product; the best is then refined by warping.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import ndimage

from ..errors import ESCDiffError

FRAME = 64            # pixels a side of the frame in which silhouettes are compared
SPAN = 26.0           # square root of every silhouette's area in that frame; leaves room for bars of 6 : 1
ROTATIONS = tuple(range(-20, 21, 4))                        # degrees
SCALES = (0.94, 1.0, 1.06)
SHIFTS = tuple((dx, dy) for dx in (-2, 0, 2) for dy in (-2, 0, 2))   # pixels of the frame
# pixels of the frame within which two outlines count as the same (4 % of the shape's span)
TOLERANCE = 1.0


@dataclass(frozen=True)
class Alignment:
    """The best fit of one silhouette on another: ``iou`` and ``boundary_f`` (0 to 1), the motion (degrees,
    pixels)."""

    iou: float
    boundary_f: float
    rotation: float
    scale: float
    shift: tuple[float, float]


@dataclass(frozen=True)
class Silhouette:
    """A mask in the common frame: ``pixels`` float32 (FRAME, FRAME), coverage 0 to 1."""

    pixels: np.ndarray

    @cached_property
    def shifted(self) -> np.ndarray:
        """The silhouette at every coarse shift, undone, as rows (len(SHIFTS), FRAME · FRAME)."""
        return np.stack([np.roll(self.pixels, (-dy, -dx), (0, 1)) for dx, dy in SHIFTS]).reshape(
            len(SHIFTS), -1
        )


def silhouette_of(mask: np.ndarray) -> Silhouette:
    """Bring a mask (h, w), bool or 0 to 1, to the common frame. Raises ESCDiffError when the mask is
    empty."""
    mask = np.asarray(mask, dtype=np.float32)
    if mask.ndim != 2:
        raise ESCDiffError(f"a mask has two dimensions (h, w); this one has shape {mask.shape}")
    area = float(mask.sum())
    if area < 1:
        raise ESCDiffError("the mask is empty; a silhouette needs at least one pixel")
    rows, columns = np.arange(mask.shape[0]), np.arange(mask.shape[1])
    centre = np.array([(mask.sum(1) * rows).sum(), (mask.sum(0) * columns).sum()]) / area
    step = np.sqrt(area) / SPAN                       # pixels of the mask per pixel of the frame
    # The outline is softened to one pixel of the frame whatever the mask's size, so that sizes compare alike.
    soft = ndimage.gaussian_filter(mask, 0.5 * max(step, 0.5), mode="constant")
    axis = (np.arange(FRAME, dtype=np.float32) - (FRAME - 1) / 2) * step
    grid = np.meshgrid(axis + centre[0], axis + centre[1], indexing="ij")
    return Silhouette(np.clip(ndimage.map_coordinates(soft, grid, order=1, mode="constant"), 0, 1))


def warp(silhouette: np.ndarray, rotation: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Turn (degrees), scale and shift (n, 2: x, y pixels) a (FRAME, FRAME) silhouette in n ways, (n, FRAME,
    FRAME)."""
    axis = np.arange(FRAME, dtype=np.float32) - (FRAME - 1) / 2
    y, x = np.meshgrid(axis, axis, indexing="ij")
    angle = np.radians(np.asarray(rotation, dtype=np.float32))[:, None, None]
    size = np.asarray(scale, dtype=np.float32)[:, None, None]
    shift = np.asarray(shift, dtype=np.float32)[:, :, None, None]
    x, y = x[None] - shift[:, 0], y[None] - shift[:, 1]
    cos, sin, middle = np.cos(angle) / size, np.sin(angle) / size, (FRAME - 1) / 2
    return ndimage.map_coordinates(
        silhouette, [cos * y - sin * x + middle, sin * y + cos * x + middle], order=1, mode="constant"
    )


def _soft_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Σ min / Σ max of coverages, over the last two axes; for {0, 1} masks the ordinary IoU."""
    shared = np.minimum(a, b).sum((-2, -1))
    return shared / np.maximum(a.sum((-2, -1)) + b.sum((-2, -1)) - shared, 1e-6)


class Matcher:
    """One silhouette, its coarse poses kept, ready to be compared with many masks.

    ``rotations`` (degrees) bounds the search; the refinement may go two degrees beyond it.
    """

    def __init__(self, mask: np.ndarray, rotations: tuple[int, ...] = ROTATIONS):
        self.silhouette = silhouette_of(mask)
        poses = [(r, s) for r in rotations for s in SCALES]
        self._poses = np.asarray(poses, dtype=np.float32)
        still = np.zeros((len(poses), 2))
        bank = warp(self.silhouette.pixels, self._poses[:, 0], self._poses[:, 1], still).reshape(
            len(poses), -1
        )
        self._bank, self._energy = bank, (bank * bank).sum(1)

    def _coarse(self, other: Silhouette) -> tuple[float, Alignment]:
        """The best coarse pose: Tanimoto similarity, and the motion that brings this silhouette onto
        ``other``."""
        moved = other.shifted
        shared = self._bank @ moved.T                                                # (poses, shifts)
        likeness = shared / (self._energy[:, None] + (moved * moved).sum(1)[None] - shared)
        pose, shift = np.unravel_index(likeness.argmax(), likeness.shape)
        rotation, scale = self._poses[pose]
        return float(likeness.max()), Alignment(0.0, 0.0, float(rotation), float(scale), SHIFTS[shift])

    def similarity(self, other: Silhouette) -> float:
        """Quick likeness, 0 to 1 (Tanimoto over the coarse poses); good for ranking candidates."""
        return self._coarse(other)[0]

    def align(self, other: Silhouette) -> Alignment:
        """Fit this silhouette onto ``other``: coarse search, then two rounds of finer steps in every
        parameter."""
        best = self._coarse(other)[1]
        for turn, grow, move in ((2.0, 0.03, 1.0), (1.0, 0.015, 0.5), (0.5, 0.0, 0.25)):
            pairs = [(r, s) for r in (-turn, 0.0, turn) for s in sorted({-grow, 0.0, grow})]
            rotation = np.asarray([best.rotation + r for r, _ in pairs])
            scale = np.asarray([best.scale * (1 + s) for _, s in pairs])
            shift = np.repeat([best.shift], len(pairs), 0)
            iou = _soft_iou(warp(self.silhouette.pixels, rotation, scale, shift), other.pixels)
            top = int(iou.argmax())
            best = replace(best, iou=float(iou[top]), rotation=float(rotation[top]), scale=float(scale[top]))
            shift = np.asarray(best.shift) + [(x, y) for x in (-move, 0, move) for y in (-move, 0, move)]
            moved = warp(self.silhouette.pixels, np.repeat(best.rotation, 9), np.repeat(best.scale, 9), shift)
            iou = _soft_iou(moved, other.pixels)
            top = int(iou.argmax())
            best = replace(best, iou=float(iou[top]), shift=tuple(float(s) for s in shift[top]))
        return replace(best, boundary_f=boundary_f_score(moved[top] > 0.5, other.pixels > 0.5))


def align(mask_a: np.ndarray, mask_b: np.ndarray) -> Alignment:
    """Fit silhouette ``mask_a`` onto ``mask_b``, each (h, w). Raises ESCDiffError when one is empty."""
    return Matcher(mask_a).align(silhouette_of(mask_b))


def aligned_iou(mask_a: np.ndarray, mask_b: np.ndarray) -> float:
    """IoU of two silhouettes (h, w) after the best translation, scale and rotation up to ±20°, 0 to 1.

    Raises ESCDiffError when one is empty.
    """
    return align(mask_a, mask_b).iou


def _outline(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask, border_value=1)


def boundary_f_score(mask_a: np.ndarray, mask_b: np.ndarray, tolerance: float = TOLERANCE) -> float:
    """Harmonic mean of the shares of each outline that lie within ``tolerance`` pixels of the other, 0 to 1.

    Both masks (h, w) as they lie: align them first. The measure of Martin, Fowlkes & Malik (2004).
    """
    a, b = _outline(np.asarray(mask_a, dtype=bool)), _outline(np.asarray(mask_b, dtype=bool))
    if not a.any() or not b.any():
        return 0.0
    precision = float((ndimage.distance_transform_edt(~b)[a] <= tolerance).mean())
    recall = float((ndimage.distance_transform_edt(~a)[b] <= tolerance).mean())
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)
