"""The surface patterns of the pocket world: functions of position that say where the second colour lies.

Each function takes ``u, v`` (pixels, in the pattern's own rotated frame, shape (h, w)) and the ``period`` in pixels, and
returns the share of the second colour, 0 to 1, with edges softened over one pixel.
"""

from collections.abc import Callable

import numpy as np

Field = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def _edge(distance: np.ndarray) -> np.ndarray:
    """Coverage of a half-plane from the signed distance to its border, in pixels."""
    return np.clip(0.5 + distance, 0.0, 1.0)


def _wave(x: np.ndarray, period: float) -> np.ndarray:
    """Signed distance, in pixels, to the borders of bars of equal width repeating every ``period``."""
    return period / 4 - np.abs((x / period) % 1.0 - 0.5) * period


def _cell(x: np.ndarray, period: float) -> np.ndarray:
    """Offset from the nearest lattice point, in pixels."""
    return ((x / period + 0.5) % 1.0 - 0.5) * period


def solid(u, v, period):
    return np.zeros_like(u)


def striped(u, v, period):
    return _edge(_wave(u, period))


def dotted(u, v, period):
    p = period * 0.9
    return _edge(0.31 * p - np.hypot(_cell(u, p), _cell(v, p)))


def checkered(u, v, period):
    a, b = _wave(u, 1.25 * period), _wave(v, 1.25 * period)
    return _edge(np.where(a * b > 0, 1, -1) * np.minimum(np.abs(a), np.abs(b)))


def gradient(u, v, period):
    return np.clip(0.5 + u / (3.4 * period), 0, 1)


def ringed(u, v, period):
    return _edge(_wave(np.hypot(u, v), period))


def zigzag(u, v, period):
    return _edge(_wave(u + np.abs(_cell(v, 1.5 * period)), period * 1.15) * 0.75)


def grid(u, v, period):
    p = period * 0.95
    return _edge(0.15 * p - np.minimum(np.abs(_cell(u, p)), np.abs(_cell(v, p))))


def halved(u, v, period):
    return _edge(u)


def wavy(u, v, period):
    return _edge(_wave(u + 0.32 * period * np.sin(2 * np.pi * v / (1.5 * period)), period * 1.15) * 0.85)


def bricked(u, v, period):
    row = np.floor(v / (0.7 * period))
    across = np.abs(_cell(u + (row % 2) * 0.7 * period, 1.4 * period))
    along = np.abs(_cell(v, 0.7 * period))
    return _edge(0.085 * period + 0.6 - np.minimum(across, along))


def rayed(u, v, period):
    angle, radius = np.arctan2(v, u), np.hypot(u, v)
    return _edge(np.sin(5 * angle) * radius / 5)


def diamonded(u, v, period):
    p = 1.3 * period
    return _edge(0.84 * (0.36 * p - (np.abs(_cell(u, 0.9 * p)) + 0.62 * np.abs(_cell(v, 1.45 * p)))))


KNOWN: dict[str, Field] = {f.__name__: f for f in (solid, striped, dotted, checkered, gradient, ringed, zigzag, grid,
                                                   halved)}
HELD_OUT: dict[str, Field] = {f.__name__: f for f in (wavy, bricked, rayed, diamonded)}
ALL: dict[str, Field] = {**KNOWN, **HELD_OUT}
