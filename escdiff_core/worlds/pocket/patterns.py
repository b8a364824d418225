"""The surfaces of the pocket world: functions of position that say where the other colours lie.

Each takes ``u, v`` (pixels, in the surface's own turned frame, shape (h, w)), the ``period`` in pixels and a
``Grain``, and returns the share of the second colour, 0 to 1, edges softened over one pixel. A surface of
three colours returns two
shares: the second colour's, and that of a third which lies over both.
"""

from collections.abc import Callable

import numpy as np

from .grain import Grain

Field = Callable[[np.ndarray, np.ndarray, float, Grain], np.ndarray | tuple[np.ndarray, np.ndarray]]


def _edge(distance: np.ndarray) -> np.ndarray:
    """Coverage of a half-plane from the signed distance to its border, in pixels."""
    return np.clip(0.5 + distance, 0.0, 1.0)


def _wave(x: np.ndarray, period: float, duty: float = 0.5) -> np.ndarray:
    """Signed distance, in pixels, to the borders of bars repeating every ``period`` and covering ``duty`` of
    it."""
    return duty * period / 2 - np.abs((x / period) % 1.0 - 0.5) * period


def _cell(x: np.ndarray, period: float) -> np.ndarray:
    """Offset from the nearest lattice point, in pixels."""
    return ((x / period + 0.5) % 1.0 - 0.5) * period


def solid(u, v, period, grain):
    return np.zeros_like(u)


def striped(u, v, period, grain):
    return _edge(_wave(u, period, grain.vary(0.38, 0.62)))


def dotted(u, v, period, grain):
    p = period * 0.9
    return _edge(p * grain.vary(0.27, 0.35) - np.hypot(_cell(u, p), _cell(v, p)))


def checkered(u, v, period, grain):
    a, b = _wave(u, 1.25 * period), _wave(v, 1.25 * period)
    return _edge(np.where(a * b > 0, 1, -1) * np.minimum(np.abs(a), np.abs(b)))


def gradient(u, v, period, grain):
    return np.clip(0.5 + u / (3.4 * max(period, 18)), 0, 1)


def ringed(u, v, period, grain):
    return _edge(_wave(np.hypot(u, v), period, grain.vary(0.42, 0.58)))


def zigzag(u, v, period, grain):
    return _edge(_wave(u + np.abs(_cell(v, 1.5 * period)), period * 1.15, grain.vary(0.42, 0.58)) * 0.75)


def grid(u, v, period, grain):
    p = period * 0.95
    return _edge(grain.vary(0.11, 0.19) * p - np.minimum(np.abs(_cell(u, p)), np.abs(_cell(v, p))))


def halved(u, v, period, grain):
    return _edge(u)


def spotted(u, v, period, grain):
    blobs = grain.noise(u, v, 1.2 * period) * 0.8 + grain.noise(u, v, 0.6 * period, 1) * 0.2
    return _edge((blobs - grain.vary(0.12, 0.3)) * period * 0.45)


def speckled(u, v, period, grain):
    near, _, number = grain.cells(u, v, 0.62 * period, 0.9)
    return _edge(period * (0.07 + 0.1 * number) - near)


def scaly(u, v, period, grain):
    p = 1.1 * period
    ring = np.full(np.shape(u), 9.0)
    # each row lies over the one above it; the last writer wins where it covers
    for row in (1, 0):
        y = (v / (0.5 * p)) % 2 - row * 1.0
        y = np.where(y < 0, y + 2, y) * 0.5 * p
        x = _cell(u + row * 0.5 * p, p)
        d = np.hypot(x, y)
        ring = np.where((d < 0.56 * p) & (y < 0.56 * p), d, ring) if row else np.where(d < 0.56 * p, d, ring)
    return _edge(ring - grain.vary(0.40, 0.46) * p)


def knitted(u, v, period, grain):
    p = 0.9 * period
    slant = v + 0.55 * np.abs(_cell(u, p))
    stitch = _wave(slant, 0.62 * p, grain.vary(0.58, 0.7))
    return _edge(np.minimum(stitch, np.abs(_cell(u + p / 2, p)) - 0.06 * p) * 0.9)


def wooden(u, v, period, grain):
    bent = u + 0.9 * period * grain.noise(u * 0.5, v * 0.16, 2.4 * period) + 0.15 * period * grain.noise(
        u, v * 0.2, period, 1)
    rings = 0.5 + 0.5 * np.cos(2 * np.pi * bent / (0.85 * period))
    return np.clip(rings ** 2.2 * 0.85 + 0.12 * grain.noise(u, v * 0.12, 0.4 * period, 2), 0, 1)


def marbled(u, v, period, grain):
    warp = period * grain.noise(u, v, 2 * period)
    veins = grain.noise(u + warp, v - warp, 2.2 * period, 1) + 0.35 * grain.noise(u, v, 0.8 * period, 2)
    return np.clip(1 - np.abs(veins) / grain.vary(0.2, 0.32), 0, 1)


def camouflaged(u, v, period, grain):
    first, second = (
        grain.noise(u, v, 1.7 * period, k) + 0.3 * grain.noise(u, v, 0.8 * period, k + 1) for k in (0, 2)
    )
    return _edge((first - 0.05) * period * 0.5), _edge((second - 0.28) * period * 0.5)


def plaid(u, v, period, grain):
    p = 1.5 * period
    bands = (_edge(_wave(u, p)) + _edge(_wave(v, p))) / 2
    thin = np.maximum(
        _edge(0.05 * p - np.abs(_cell(u + p / 4, p))), _edge(0.05 * p - np.abs(_cell(v + p / 4, p)))
    )
    return bands, 0.9 * thin


def leafy(u, v, period, grain):
    p, share = 1.15 * period, np.zeros_like(u)
    for k in (0, 1):                       # two lattices of leaves, each leaf turned its own way
        x, y = u / p + 0.5 * k, v / p + 0.5 * k
        i, j = np.floor(x), np.floor(y)
        a = np.pi * grain.number(i, j, 31 + k)
        x, y = (x - i - 0.5) * p, (y - j - 0.5) * p
        along, across = np.cos(a) * x + np.sin(a) * y, -np.sin(a) * x + np.cos(a) * y
        half = 0.42 * p
        width = 0.17 * p * np.clip(1 - (along / half) ** 2, 0, 1)
        leaf = _edge(width - np.abs(across)) * (np.abs(along) < half)
        share = np.maximum(share, leaf * (1 - 0.8 * _edge(0.6 - np.abs(across)) * (period > 16)))
    return share


def honeycombed(u, v, period, grain):
    p = 1.05 * period
    x, y = u / p, v / (p * np.sqrt(3))
    d = []
    for k in (0.0, 0.5):
        a, b = (x + k) % 1 - 0.5, (y + k) % 1 - 0.5
        d.append((a * p, b * p * np.sqrt(3)))
    def hexagon(a, b):
        return np.maximum(np.abs(a), 0.5 * np.abs(a) + 0.5 * np.sqrt(3) * np.abs(b))
    inner = np.minimum(*(hexagon(a, b) for a, b in d))
    return _edge(inner - p * grain.vary(0.39, 0.44))


def cracked(u, v, period, grain):
    near, following, _ = grain.cells(u, v, 1.35 * period, 0.95)
    return _edge(period * grain.vary(0.07, 0.12) - (following - near) * 0.5)


def banded(u, v, period, grain):
    p = 1.7 * period
    return _edge(_wave(u, p, 1 / 3)), _edge(_wave(u - p / 3, p, 1 / 3))


def woven(u, v, period, grain):
    p = 1.3 * period
    i, j = np.floor(u / (p / 2)), np.floor(v / (p / 2))
    x, y = _cell(u - p / 4, p / 2), _cell(v - p / 4, p / 2)
    over = (i + j) % 2 == 0
    return _edge(p * grain.vary(0.14, 0.19) - np.abs(np.where(over, x, y)))


def cloudy(u, v, period, grain):
    return np.clip(0.5 + 0.75 * grain.noise(u, v, 2.2 * period) + 0.3 * grain.noise(u, v, period, 1), 0, 1)


def starred(u, v, period, grain):
    p = 1.1 * period
    x, y = _cell(u, p), _cell(v, p)
    angle = np.arctan2(y, x)
    corner = np.abs(((angle * 5 / (2 * np.pi) + grain.vary(0, 1)) % 1) - 0.5) * 2
    return _edge(p * (0.2 + 0.24 * corner) - np.hypot(x, y) * (0.8 + 0.2 * corner))


def rippled(u, v, period, grain):
    bent = u + 1.1 * period * grain.noise(u, v, 2.6 * period) + 0.25 * period * grain.noise(u, v, period, 1)
    return _edge(_wave(bent, period, grain.vary(0.42, 0.58)) * 0.8)


def tiled(u, v, period, grain):
    p = 1.1 * period
    shade = grain.number(np.floor(u / p + 0.5), np.floor(v / p + 0.5), 41) < 0.5
    joint = _edge(0.07 * p - np.minimum(*(p / 2 - np.abs(_cell(x, p)) for x in (u, v))))
    return shade.astype(np.float32), joint


def wavy(u, v, period, grain):
    return _edge(_wave(u + 0.32 * period * np.sin(2 * np.pi * v / (1.5 * period)), period * 1.15) * 0.85)


def bricked(u, v, period, grain):
    row = np.floor(v / (0.7 * period))
    across = np.abs(_cell(u + (row % 2) * 0.7 * period, 1.4 * period))
    along = np.abs(_cell(v, 0.7 * period))
    return _edge(0.085 * period + 0.6 - np.minimum(across, along))


def rayed(u, v, period, grain):
    angle, radius = np.arctan2(v, u), np.hypot(u, v)
    return _edge(np.sin(5 * angle) * radius / 5)


def diamonded(u, v, period, grain):
    p = 1.3 * period
    return _edge(0.84 * (0.36 * p - (np.abs(_cell(u, 0.9 * p)) + 0.62 * np.abs(_cell(v, 1.45 * p)))))


def swirled(u, v, period, grain):
    turn = np.arctan2(v, u) * period * 1.2 * 2 / (2 * np.pi)
    return _edge(_wave(np.hypot(u, v) + turn, period * 1.2))


def netted(u, v, period, grain):
    lines = np.minimum(np.abs(_cell(u + 0.5 * v, period)), np.abs(_cell(u - 0.5 * v, period)))
    return _edge(0.1 * period + 0.3 - lines * 0.9)


def pebbled(u, v, period, grain):
    near, following, _ = grain.cells(u, v, 1.15 * period, 0.8)
    return _edge((following - near) * 0.6 - 0.16 * period)


def crossed(u, v, period, grain):
    p = 1.2 * period
    x, y = np.abs(_cell(u, p)), np.abs(_cell(v, p))
    return _edge(np.minimum(0.34 * p - np.maximum(x, y), 0.11 * p - np.minimum(x, y)))


def arched(u, v, period, grain):
    p = 1.4 * period
    row = np.floor(v / (0.5 * p))
    x, y = _cell(u + (row % 2) * 0.5 * p, p), (v / (0.5 * p) - row) * 0.5 * p
    return _edge(_wave(np.hypot(x, y), 0.34 * p) * 0.9)


def flecked(u, v, period, grain):
    p = 0.8 * period
    i, j = np.floor(u / p), np.floor(v / p)
    a = np.pi * grain.number(i, j, 51)
    x, y = (u / p - i - 0.5) * p, (v / p - j - 0.5) * p
    along, across = np.cos(a) * x + np.sin(a) * y, -np.sin(a) * x + np.cos(a) * y
    return _edge(np.minimum(0.36 * p - np.abs(along), 0.1 * p - np.abs(across)))


KNOWN: dict[str, Field] = {
    f.__name__: f
    for f in (solid, striped, dotted, checkered, gradient, ringed, zigzag, grid, halved, spotted, speckled,
              scaly, knitted, wooden, marbled, camouflaged, plaid, leafy, honeycombed, cracked, banded, woven,
              cloudy, starred, rippled, tiled)
}
HELD_OUT: dict[str, Field] = {
    f.__name__: f
    for f in (wavy, bricked, rayed, diamonded, swirled, netted, pebbled, crossed, arched, flecked)
}
THREE_COLOURED = frozenset(("camouflaged", "plaid", "banded", "tiled"))
# have a middle, which stays in the object
CENTRED = frozenset(("ringed", "rayed", "halved", "gradient", "swirled"))
# have no period, or a large one
LARGE = frozenset(("halved", "gradient", "rayed"))

UNNAMED = "patterned"     # what a caption says of a surface that has no name
_PARTS = (striped, dotted, checkered, grid, zigzag, spotted, woven, honeycombed, cracked, rippled, leafy,
          marbled, speckled)


def patterned(u, v, period, grain):
    """Two known surfaces in one, bent: endlessly many that no word tells apart."""
    first, second = (_PARTS[int(grain.vary(0, len(_PARTS) - 0.01, k))] for k in (61, 62))
    bend = period * grain.vary(0, 0.35, 63)
    x = u + bend * grain.noise(u, v, 3 * period, 8)
    y = v + bend * grain.noise(u, v, 3 * period, 9)
    a = first(x, y, period, grain)
    turn, scale = grain.vary(0, np.pi, 64), grain.vary(0.6, 1.8, 65)
    b = second(
        np.cos(turn) * x + np.sin(turn) * y,
        np.cos(turn) * y - np.sin(turn) * x, period * scale, Grain(grain.seed + 1))
    kind = int(grain.vary(0, 3.99, 66))
    if kind == 0:
        return np.abs(a - b)
    if kind == 1:
        return a * (1 - 0.7 * b)
    return (a, b * 0.9) if kind == 2 else a


ALL: dict[str, Field] = {**KNOWN, **HELD_OUT, UNNAMED: patterned}


def shares(name: str, u: np.ndarray, v: np.ndarray, period: float, grain: Grain) -> list[np.ndarray]:
    """Where the second colour lies, and the third of a surface that has three, float32 (h, w) each, 0 to 1.

    Raises ESCDiffError for an unknown surface.
    """
    from ...errors import lookup

    made = lookup(ALL, name, "pattern")(u, v, period, grain)
    return [np.clip(part, 0, 1).astype(np.float32) for part in (made if isinstance(made, tuple) else (made,))]
