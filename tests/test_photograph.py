"""Subjects of photographs: found where they can be trusted, refused elsewhere."""

import numpy as np
import pytest
from scipy import ndimage
from skimage import data
from skimage.color import gray2rgb

from escdiff_core.errors import ESCDiffError
from escdiff_core.reference.photograph import subject_of

BUSY = ("astronaut", "brick", "chelsea", "coffee", "grass", "gravel", "rocket")


def ground(noise: float = 0.004, size: int = 256) -> np.ndarray:
    """A light grey sheet as a camera sees it: darker towards one corner, and with noise."""
    y, x = np.mgrid[:size, :size] / size
    sheet = 0.82 - 0.06 * (x + y)[..., None] + np.random.default_rng(0).normal(0, noise, (size, size, 3))
    return sheet.clip(0, 1).astype(np.float32)


def heart(size: int = 256, centre: float = 0.5) -> np.ndarray:
    """Two discs and a wedge, bool (size, size)."""
    y, x = np.mgrid[:size, :size] / size - np.array([0.5, centre])[:, None, None]
    discs = [(x - side) ** 2 + (y + 0.1) ** 2 < 0.15 ** 2 for side in (-0.12, 0.12)]
    return discs[0] | discs[1] | ((np.abs(x) < 0.25 - 0.7 * (y + 0.05)) & (y > -0.05) & (y < 0.3))


def on(sheet: np.ndarray, mask: np.ndarray, surface: np.ndarray) -> np.ndarray:
    soft = ndimage.gaussian_filter(mask.astype(np.float32), 0.7)[..., None]
    return sheet * (1 - soft) + surface * soft


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize(
    "surface", [np.full(3, 0.88), np.float32([0.86, 0.8, 0.7]), gray2rgb(data.gravel()[:256, :256]) / 255],
    ids=["white on grey", "cream on grey", "gravel"]
)
def test_a_subject_that_hardly_differs_from_its_ground_is_found_whole(surface):
    mask = heart()
    found, confidence = subject_of(on(ground(), mask, surface).astype(np.float32))
    assert iou(found, mask) > 0.9 and confidence > 0.8


@pytest.mark.parametrize("name", BUSY)
def test_a_photograph_without_a_plain_ground_is_refused(name):
    image = getattr(data, name)()
    with pytest.raises(ESCDiffError, match="give a mask"):
        subject_of((image if image.ndim == 3 else gray2rgb(image)).astype(np.float32) / 255)


def test_a_subject_cut_by_the_border_is_less_sure_and_one_that_fills_a_side_is_refused():
    whole, half = (
        on(ground(), heart(centre=at), np.float32([0.7, 0.2, 0.2])).astype(np.float32) for at in (0.5, 0.78)
    )
    assert subject_of(whole)[1] > subject_of(half, 0.0)[1] > 0
    filled = on(ground(), np.mgrid[:256, :256][0] > 90, np.float32([0.7, 0.2, 0.2])).astype(np.float32)
    with pytest.raises(ESCDiffError, match="give a mask"):
        subject_of(filled)


def test_a_faint_stain_without_an_outline_is_no_subject():
    stain = ndimage.gaussian_filter(heart().astype(np.float32), 22)[..., None]
    with pytest.raises(ESCDiffError, match=r"no subject found for sure.*give a mask"):
        subject_of((ground() * (1 - 0.25 * stain)).astype(np.float32))


@pytest.mark.parametrize("blur, depth", [(6, 0.12), (6, 0.25), (12, 0.25), (12, 0.4)])
def test_a_soft_shadow_on_the_ground_is_no_part_of_the_subject(blur, depth):
    mask = heart()
    shadow = ndimage.gaussian_filter(np.roll(mask, (14, 14), (0, 1)).astype(np.float32), blur)[..., None]
    image = on(ground() * (1 - depth * shadow), mask, np.float32([0.7, 0.2, 0.2])).astype(np.float32)
    found, confidence = subject_of(image)
    assert iou(found, mask) > 0.95 and confidence > 0.75


def test_a_drawn_outline_and_a_picture_in_a_frame_are_refused():
    mask = heart()
    line = on(ground(), mask ^ ndimage.binary_erosion(mask, iterations=4), np.full(3, 0.1))
    inside = np.zeros(mask.shape, bool)
    inside[16:-16, 16:-16] = True
    framed = np.where(inside[..., None], on(ground(), mask, np.float32([0.7, 0.2, 0.2])), 0.08)
    for image in (line, framed):
        with pytest.raises(ESCDiffError, match=r"no subject found for sure.*give a mask"):
            subject_of(image.astype(np.float32))
