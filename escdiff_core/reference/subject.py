"""Find the subject of a drawing: what does not belong to a smooth background, from the picture alone. For
photographs see photograph.

The background is a low-order surface in CIELAB, fitted to the border and then to everything that agrees with
it.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.transform import resize

from ..errors import ESCDiffError

WORKING_SIZE = 128    # pixels of the longer side at which the judge works
BORDER = 4            # pixels: the frame whose colours start the background fit
INLIER = 9.0          # CIELAB distance to the surface that still counts as background while fitting
# CIELAB distance that is surely not background; the closest pair in the pocket world is 39 apart
CORE = 16.0
SMALLEST = 0.01       # share of the picture below which a component is dust, not subject
LARGEST = 0.85        # share of the picture above which the "subject" is rather the picture itself
PLAIN = 0.5           # share of the border the surface must explain for the background to count as plain


@dataclass(frozen=True)
class Segmentation:
    """``mask`` bool (h, w), ``background`` float32 (h, w, 3) in CIELAB."""

    mask: np.ndarray
    background: np.ndarray


def as_working(image: np.ndarray) -> np.ndarray:
    """Bring a picture (h, w, 3), float 0 to 1 or uint8, to ``WORKING_SIZE`` on its longer side, float32.

    Raises ESCDiffError when it is not a finite RGB picture of at least 8 pixels a side.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < 8:
        raise ESCDiffError(
            f"the judge was given an array of shape {image.shape}; it takes one RGB picture (h, w, 3) "
            "of at least 8 pixels a side"
        )
    image = image.astype(np.float32) / (255.0 if image.dtype == np.uint8 else 1.0)
    if not np.isfinite(image).all():
        raise ESCDiffError("the picture holds NaN or infinite values; the judge takes floats from 0 to 1")
    height, width = image.shape[:2]
    if max(height, width) != WORKING_SIZE:
        scale = WORKING_SIZE / max(height, width)
        shape = (max(8, round(height * scale)), max(8, round(width * scale)))
        image = resize(image, shape, order=1, anti_aliasing=scale < 1).astype(np.float32)
    return np.clip(image, 0, 1)


def mask_at(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bring a mask to ``shape`` (h, w) and make it bool, cut at one half."""
    mask = np.asarray(mask, dtype=np.float32)
    if mask.shape != tuple(shape):
        mask = resize(mask, shape, order=1, anti_aliasing=mask.shape[0] > shape[0])
    return mask > 0.5


@lru_cache(maxsize=16)
def _monomials(height: int, width: int) -> np.ndarray:
    """1, x, y, x², xy, y² over the picture, x and y from -1 to 1, float32 (h·w, 6)."""
    y, x = (axis.ravel() for axis in np.meshgrid(np.linspace(-1, 1, height, dtype=np.float32),
                                                 np.linspace(-1, 1, width, dtype=np.float32), indexing="ij"))
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], 1)


def _fit(basis: np.ndarray, values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted least squares with a little ridge on everything but the constant; coefficients (k, 3)."""
    weighted = basis * weight[:, None]
    ridge = np.eye(basis.shape[1], dtype=np.float32) * 1e-3 * weight.sum()
    ridge[0, 0] = 1e-6
    return np.linalg.solve(weighted.T @ basis + ridge, weighted.T @ values)


def border_of(shape: tuple[int, int], width: int = BORDER) -> np.ndarray:
    """The frame of a picture (h, w), ``width`` pixels wide, as a bool mask."""
    frame = np.ones(shape, dtype=bool)
    frame[width:-width, width:-width] = False
    return frame


def background_of(lab: np.ndarray) -> np.ndarray:
    """Fit the background of a picture (h, w, 3) in CIELAB, float32. Raises ESCDiffError when it is not plain:
    when it explains too little of the border."""
    height, width = lab.shape[:2]
    frame = border_of((height, width)).ravel()
    basis, values = _monomials(height, width), lab.reshape(-1, 3)
    # The mode, not the mean, starts the fit: a subject on the border must not drag it along.
    border = values[frame]
    sample = border[:: max(1, len(border) // 256)]
    near = np.linalg.norm(sample[:, None] - sample[None], axis=-1) < 2 * INLIER
    surface = np.broadcast_to(sample[near[near.sum(1).argmax()]].mean(0), values.shape)
    for terms, where in (
        (3, frame),
        (3, frame),
        (3, frame),
        (6, np.ones_like(frame)),
        (6, np.ones_like(frame)),
    ):
        distance = np.linalg.norm(values - surface, axis=1)
        weight = where / (1 + (distance / INLIER) ** 2) ** 2 * (distance < 2.5 * INLIER)
        if weight.sum() < 32:
            break
        surface = basis[:, :terms] @ _fit(basis[:, :terms], values, weight.astype(np.float32))
    explained = (np.linalg.norm(border - surface[frame], axis=1) < 1.5 * INLIER).mean()
    if explained < PLAIN:
        raise ESCDiffError(
            f"no plain background: one smooth colour explains only {explained:.0%} of the picture's "
            "border; give a mask, or a picture of one subject on a plain background"
        )
    return surface.reshape(lab.shape).astype(np.float32)


def _edges(lab: np.ndarray, background: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Redraw the outline of ``found`` where a blurred edge is half subject, half background.

    Each pixel near the outline is explained as a mixture of the nearest inner colour and the background
    there.
    """
    inner = ndimage.binary_erosion(found, iterations=2, border_value=1)
    # parts too thin to have an inside stay as found
    inner |= found & ~ndimage.binary_dilation(inner, iterations=3)
    band = ndimage.binary_dilation(found, iterations=1) & ~inner
    rows, columns = ndimage.distance_transform_edt(~inner, return_distances=False, return_indices=True)
    at = np.nonzero(band)
    colour, back = lab[rows[at], columns[at]], background[at]
    step = colour - back
    share = ((lab[at] - back) * step).sum(1) / np.maximum((step * step).sum(1), 1e-6)
    mask = inner.copy()
    mask[at] = share > 0.5
    return mask


def beyond(lab: np.ndarray, background: np.ndarray, core: float = CORE) -> np.ndarray:
    """What is further than ``core`` from the ``background``, both (h, w, 3) in CIELAB, as a bool mask without
    dust.

    Raises ESCDiffError when nothing or nearly everything is.
    """
    found = ndimage.binary_opening(np.linalg.norm(lab - background, axis=-1) > core, iterations=1)
    labels, count = ndimage.label(found, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    keep = 1 + np.nonzero(sizes >= max(SMALLEST * found.size, 0.12 * sizes.max(initial=0)))[0]
    found = np.isin(labels, keep)
    # Specks of background colour inside the subject are noise; a real hole is larger than that.
    holes, count = ndimage.label(~found)
    sizes = np.bincount(holes.ravel(), minlength=count + 1)
    specks = np.nonzero(sizes < 0.0008 * found.size)[0]
    found |= np.isin(holes, specks[specks > 0])
    share = float(found.mean())
    if not SMALLEST <= share <= LARGEST:
        what = "nothing stands out from" if share < SMALLEST else "nearly everything differs from"
        raise ESCDiffError(
            f"no subject found: {what} the background ({share:.0%} of the picture); give a mask, or a "
            "picture of one subject on a plain background"
        )
    return _edges(lab, background, found)


def find_subject(image: np.ndarray) -> Segmentation:
    """Find the subject of ``image`` (h, w, 3), float 0 to 1, at the picture's own size.

    Raises ESCDiffError when the background is not plain, or when nothing or nearly everything stands out from
    it.
    """
    original = np.asarray(image).shape[:2]
    lab = rgb2lab(as_working(image)).astype(np.float32)
    background = background_of(lab)
    mask = beyond(lab, background)
    if mask.shape != original:
        mask = resize(mask.astype(np.float32), original, order=1) > 0.5
        background = resize(background, original, order=1).astype(np.float32)
    return Segmentation(mask, background)


def object_mask(image: np.ndarray) -> np.ndarray:
    """The subject of ``image`` (h, w, 3) as a bool mask (h, w). Raises ESCDiffError as :func:`find_subject`
    does."""
    return find_subject(image).mask
