"""Augmented views: any subject stays inside its picture, and a cut keeps its outline, whatever the picture's
shape."""

import numpy as np
import pytest
from method_zoo import disc

from escdiff_core.learning.views import view_sources
from escdiff_core.reference import Reference
from escdiff_core.worlds.pocket.views import reshape


@pytest.mark.parametrize("subject", ["disc", "wire", "speck", "square", "frame", "whole"])
@pytest.mark.parametrize("augmentation", sorted(set(view_sources()) - {"none"}))
def test_views_of_any_subject_stay_inside_the_picture(augmentation, subject):
    y, x = np.mgrid[:96, :64]
    mask = {
        "disc": (y - 40)**2 + (x - 30)**2 < 300, "wire": abs(y - x) < 1, "speck": (y == 7) & (x == 9),
        "square": (abs(y - 48) < 31) & (abs(x - 32) < 31), "frame": (x < 3) | (x > 60) | (y < 3) | (y > 92),
        "whole": x >= 0
    }[subject].astype(np.float32)
    image = np.stack([x / 64, y / 96, 0 * x], -1).astype(np.float32)
    reference = Reference(image, mask)
    source = view_sources()[augmentation]
    for seed in range(6):
        view = source.draw(reference.image, reference.mask, np.random.default_rng(seed))
        assert (
            view.image.shape == image.shape
            and view.mask.shape == mask.shape
            and view.image.dtype == np.float32
        )
        assert np.isfinite(view.image).all() and view.image.min() >= 0 and view.image.max() <= 1
        assert view.mask.sum() > 0 and view.rest and view.behind
        if subject != "whole" and source.needs_outline:
            rim = np.concatenate([view.mask[0], view.mask[-1], view.mask[:, 0], view.mask[:, -1]])
            assert rim.max() < 0.6, "a subject that is cut off has lost its shape"


@pytest.mark.parametrize("size", [(64, 256), (256, 64), (128, 192)])
def test_a_cut_is_whole_in_a_picture_of_any_shape(size):
    reference, rng, seen = disc(size), np.random.default_rng(0), 0
    for _ in range(40):
        view = reshape(reference.image, reference.mask, rng)
        rows, columns = np.nonzero(view.mask > 0.5)
        assert len(rows) > 0.05 * min(size) ** 2
        if view.rest in ("circle", "square", "hexagon"):
            seen += 1
            assert 0.75 < (np.ptp(rows) + 1) / (np.ptp(columns) + 1) < 1.33, f"a {view.rest} that was cut off"
    assert seen > 3
