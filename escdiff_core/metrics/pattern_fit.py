"""Recognise a pocket pattern by drawing it again: which pattern, at any angle, period and phase, fits the subject best.

The subject becomes one signal: the position of each pixel between its two colours. Every pattern is drawn at a grid of
angles and periods; masked normalised cross-correlation by FFT (Padfield 2012) tries all phases at once.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import fft, ndimage

from ..errors import lookup
from ..pocket import patterns
from .surface import colour_spread, inside, signal, smooth

CANVAS = 64           # pixels a side of the correlation canvas
STEP = 2.5            # pixels of the 128-pixel picture per pixel of the canvas; the widest subject then takes 48 of 64
PERIODS = (20.0, 21.4, 22.9, 24.5, 26.2, 28.0)    # pixels; the range the world draws from, in steps of 7 %
CONTRAST = 15.0       # CIELAB distance between a subject's two ends below which it is one colour for sure


@dataclass(frozen=True)
class Sweep:
    """How a pattern is swept: ``turn`` degrees after which it repeats, ``angles`` tried, ``periods`` in pixels.

    ``centred`` patterns have a middle that stays within ``WANDER`` of the subject's.
    """

    turn: float
    angles: int
    periods: tuple[float, ...] = PERIODS
    centred: bool = False


WANDER = 6            # pixels of the canvas
STRIPES, LATTICE = Sweep(180, 30), Sweep(90, 15)
SWEEPS: dict[str, Sweep] = {
    "striped": STRIPES, "zigzag": STRIPES, "wavy": STRIPES, "bricked": STRIPES, "diamonded": STRIPES,
    "dotted": LATTICE, "checkered": LATTICE, "grid": LATTICE,
    "gradient": Sweep(180, 24, (20.0, 24.0, 28.0), centred=True),
    "halved": Sweep(180, 24, (24.0,), centred=True),
    "ringed": Sweep(360, 1, centred=True), "rayed": Sweep(72, 8, (24.0,), centred=True),
}
FLAT_PATTERN = "solid"


@cache
def _templates(pattern: str) -> tuple[np.ndarray, np.ndarray]:
    """FFTs of a pattern at every swept pose, complex64 (k, CANVAS, CANVAS // 2 + 1), and of its square.

    A pattern that repeats has about the same mean square wherever it is looked at: that mean, (k, 1, 1), is enough.
    """
    field, sweep = lookup(patterns.ALL, pattern, "pattern"), lookup(SWEEPS, pattern, "pattern")
    axis = np.arange(CANVAS, dtype=np.float32) - CANVAS // 2
    y, x = np.meshgrid(axis, axis, indexing="ij")
    drawn = []
    for angle in np.radians(np.arange(sweep.angles) * sweep.turn / sweep.angles):
        u, v = np.cos(angle) * x + np.sin(angle) * y, -np.sin(angle) * x + np.cos(angle) * y
        drawn += [field(u, v, period / STEP) for period in sweep.periods]
    stack = np.asarray(drawn, dtype=np.float32) - 0.5
    square = stack * stack
    return (fft.rfft2(stack).astype(np.complex64),
            fft.rfft2(square).astype(np.complex64) if sweep.centred else square.mean((1, 2), keepdims=True))


def _to_canvas(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bring the signal ``values`` (mean taken out) and the mask to the canvas, float32 (CANVAS, CANVAS) each."""
    rows, columns = np.nonzero(mask)
    middle = ((rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2)
    # A subject wider than the world draws them would wrap around the canvas: shrink it, the periods allow for little.
    step = max(STEP, (max(np.ptp(rows), np.ptp(columns)) + 1) / 50)
    axis = (np.arange(CANVAS, dtype=np.float32) - CANVAS // 2) * step
    grid = np.meshgrid(axis + middle[0], axis + middle[1], indexing="ij")
    weight = mask.astype(np.float32)
    cover = ndimage.gaussian_filter(weight, step / 2.6)
    value = ndimage.gaussian_filter(values * weight, step / 2.6) / np.maximum(cover, 1e-3)
    small = ndimage.map_coordinates(weight, grid, order=1) > 0.5
    value = ndimage.map_coordinates(value, grid, order=1) * small
    value[small] -= value[small].mean() if small.any() else 0.0
    return value.astype(np.float32), small.astype(np.float32)


def pattern_scores(image: np.ndarray, mask: np.ndarray, candidates: tuple[str, ...]) -> dict[str, float]:
    """Best correlation, 0 to 1, of each candidate pattern with the subject ``mask`` bool (h, w) of ``image`` (h, w, 3).

    A subject of one colour, soft shading allowed, scores 1 as ``solid`` and 0 as everything else. Raises ESCDiffError
    for an unknown pattern.
    """
    for name in candidates:
        lookup(patterns.ALL, name, "pattern")
    inner = inside(mask, 1)
    image = smooth(image, inner)
    # One colour for sure up to CONTRAST, surely not at twice that; in between a pattern may explain it better.
    lone = float(np.clip(2 - colour_spread(image, inner) / CONTRAST, 0, 1))
    scores = {name: lone for name in candidates if name == FLAT_PATTERN}
    drawn = [name for name in candidates if name != FLAT_PATTERN]
    if lone == 1:
        return scores | dict.fromkeys(drawn, 0.0)
    value, cover = _to_canvas(signal(image, inner), inner)
    area, energy = max(float(cover.sum()), 1.0), float((value * value).sum())
    value_fft, cover_fft = np.conj(fft.rfft2(value)), np.conj(fft.rfft2(cover))
    for name in drawn:
        plain, square = _templates(name)
        shared, total = (fft.irfft2(plain * part, s=(CANVAS, CANVAS)) for part in (value_fft, cover_fft))
        if SWEEPS[name].centred:
            window = np.r_[0:WANDER + 1, -WANDER:0]
            power = fft.irfft2(square * cover_fft, s=(CANVAS, CANVAS))
            shared, total, power = (part[:, window][:, :, window] for part in (shared, total, power))
        else:
            power = area * square
        # A template that is all one colour under the mask has nothing to correlate: its variance has a least value.
        spread = np.maximum(power - total * total / area, 0.03 * area)
        scores[name] = float((np.abs(shared) / np.sqrt(spread * max(energy, 1e-6))).max())
    return scores


def best_pattern(image: np.ndarray, mask: np.ndarray, candidates: tuple[str, ...] = tuple(patterns.KNOWN)) -> str:
    """The candidate pattern that explains the subject ``mask`` bool (h, w) of ``image`` (h, w, 3) best."""
    scores = pattern_scores(image, mask, candidates)
    return max(scores, key=scores.get)
