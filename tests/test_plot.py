"""The picture of the losses, drawn without a plotting package."""

import numpy as np
import pytest

from escdiff_core.plot import BLUE, SIZE, plot_losses, ticks


@pytest.mark.parametrize("low, high, expected", [
    (0.1, 0.42, [0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45]), (1, 110, [0, 20, 40, 60, 80, 100, 120]),
    (0.0, 0.0, [0.0, 0.2]), (3.0, 3.0, [3.0, 3.5]), (1e-4, 9e-4, [0, 2e-4, 4e-4, 6e-4, 8e-4, 1e-3]),
])
def test_ticks_are_round_and_hold_what_is_shown(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def blue(losses) -> np.ndarray:
    """Where the smoothed line is: (rows, columns)."""
    picture = np.asarray(plot_losses(losses, "a title"), int)
    assert picture.shape == (SIZE[1], SIZE[0], 3)
    wanted = [int(BLUE[i:i + 2], 16) for i in (1, 3, 5)]
    return np.argwhere((np.abs(picture - wanted) < 12).all(-1))


def test_a_falling_loss_falls_in_the_picture():
    line = blue(np.linspace(0.4, 0.1, 100) + 0.01 * np.sin(np.arange(100)))
    left, right = line[line[:, 1] < 200][:, 0].mean(), line[line[:, 1] > 450][:, 0].mean()
    assert left + 100 < right, "rows count from the top"


@pytest.mark.parametrize(
    "losses",
    [[0.1], [], [0.3, 0.2, float("nan"), 0.1], [float("nan")] * 3, [0.0, 0.0], [2.0] * 5000],
    ids=["one", "none", "gap", "nothing finite", "zero", "flat"],
)
def test_any_losses_make_a_picture(losses):
    assert bool(len(blue(losses))) == bool(np.isfinite(losses).any())
