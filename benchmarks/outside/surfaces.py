"""Eight surfaces for references from outside the pocket world, whose code and colours they do not share.

Each takes ``x, y`` (pixels of a 128-pixel picture, any shape) and returns sRGB, 0 to 1, (…, 3). They go on
for ever: what is random in them is a hash of the cell, so that a shifted or turned piece is more of the same
surface.
"""

from collections.abc import Callable

import numpy as np

Surface = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _rgb(*values: int) -> np.ndarray:
    return np.asarray(values, np.float64) / 255


def _chance(i: np.ndarray, j: np.ndarray, salt: int) -> np.ndarray:
    """A number from 0 to 1 for each cell (i, j), the same on every machine."""
    i, j = (np.asarray(part, np.int64) & 0xFFFFFFFF for part in (i, j))
    code = (i * 0x9E3779B1 + j * 0x85EBCA77 + salt * 0xC2B2AE3D) & 0xFFFFFFFF
    for shift, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39)):
        code = ((code ^ (code >> shift)) * factor) & 0xFFFFFFFF
    return (code ^ (code >> 15)) / 2.0**32


def _pick(index: np.ndarray, *colours: np.ndarray) -> np.ndarray:
    return np.stack(colours)[np.clip(index, 0, len(colours) - 1).astype(int)]


def _cells(x: np.ndarray, y: np.ndarray, size: float, jitter: float, salt: int) -> tuple[np.ndarray, ...]:
    """Distances to the nearest and second nearest of scattered points, the offset from the nearest, and its
    cell."""
    shape = np.shape(x)
    near, second = (np.full(shape, np.inf) for _ in range(2))
    dx, dy, ci, cj = (np.zeros(shape) for _ in range(4))
    for a in range(-2, 3):
        for b in range(-2, 3):
            i, j = np.floor(x / size) + a, np.floor(y / size) + b
            px = (i + 0.5 + jitter * (_chance(i, j, salt) - 0.5)) * size
            py = (j + 0.5 + jitter * (_chance(i, j, salt + 1) - 0.5)) * size
            distance = np.hypot(x - px, y - py)
            closer = distance < near
            second = np.where(closer, near, np.minimum(second, distance))
            dx, dy, ci, cj = (np.where(closer, new, old)
                              for new, old in ((x - px, dx), (y - py, dy), (i, ci), (j, cj)))
            near = np.where(closer, distance, near)
    return near, second, dx, dy, ci, cj


def bricks(x, y):
    """Courses of 10 pixels, bricks of 22, joints of 2; every brick a little lighter or darker."""
    row = np.floor(y / 10)
    across = x + 11 * (row % 2)
    column = np.floor(across / 22)
    joint = np.minimum(np.minimum(across % 22, 22 - across % 22), np.minimum(y % 10, 10 - y % 10)) < 1
    brick = _rgb(170, 78, 58) * (0.8 + 0.4 * _chance(column, row, 1))[..., None]
    return np.where(joint[..., None], _rgb(219, 208, 190), brick)


def scales(x, y):
    """Rows of overlapping scales, 16 wide and 8 apart, light at the root and rimmed."""
    row = np.floor(y / 8)
    def reach(r):
        middle = x - 8 * (r % 2)
        return np.hypot((middle + 8) % 16 - 8, y - 8 * r)
    upper = reach(row - 1)
    radius = np.where(upper < 10.5, upper, reach(row)) / 10.5
    body = _rgb(120, 205, 150) * (1 - radius)[..., None] + _rgb(14, 96, 92) * radius[..., None]
    return np.where((radius > 0.84)[..., None], _rgb(8, 38, 52), body)


def leopard(x, y):
    """Broken dark rings with brown middles, scattered 17 pixels apart on tan."""
    near, _, dx, dy, i, j = _cells(x, y, 17, 0.45, 11)
    angle = np.arctan2(dy, dx) + 6.3 * _chance(i, j, 13)
    radius = near * (1 + 0.16 * np.sin(3 * angle) + 0.1 * np.sin(2 * angle + 1))
    ring = (radius > 3) & (radius < 6) & (np.cos(angle) < 0.86)
    skin = _pick(radius < 4.4, _rgb(226, 180, 112), _rgb(170, 108, 48))
    return np.where(ring[..., None], _rgb(44, 27, 20), skin)


def houndstooth(x, y):
    """Two threads of four units each, woven two over two under: broken checks, 16 pixels apart."""
    i, j = np.floor(x / 2), np.floor(y / 2)
    thread = np.where((i - j) % 4 < 2, i, j)
    return _pick(thread % 8 < 4, _rgb(240, 232, 214), _rgb(38, 52, 66))


def plaid(x, y):
    """Crossing bands of three colours, 24 pixels apart, mixed where they cross."""
    def bands(t):
        t = t % 24
        return _pick(np.digitize(t, (9, 12, 14, 17)), *(_rgb(*c) for c in (
            (150, 28, 62), (24, 58, 84), (240, 214, 116), (24, 58, 84), (150, 28, 62))))
    return (bands(x) + bands(y)) / 2


def basket(x, y):
    """Strips of 8 pixels that go over and under each other, rounded, with dark gaps."""
    i, j = np.floor(x / 8), np.floor(y / 8)
    lying = (i + j) % 2 == 0
    across, along = np.where(lying, y, x) % 8 / 8 - 0.5, np.where(lying, x, y) % 8 / 8 - 0.5
    light = np.clip(1.05 - 2.6 * across**2 - 1.0 * along**2, 0, 1)[..., None]
    return np.where(np.abs(across)[..., None] > 0.42, _rgb(74, 46, 30), _rgb(232, 190, 124) * light)


def flames(x, y):
    """Tongues of three colours, rising 12 pixels apart."""
    tongue = 0.42 * np.abs(2 * ((x / 18 + 0.12 * np.sin(2 * np.pi * y / 31)) % 1) - 1) ** 1.5
    band = (y / 13 + 1.5 * tongue) % 1
    return _pick(np.digitize(band, (0.4, 0.68)), _rgb(120, 16, 74), _rgb(238, 92, 44), _rgb(255, 218, 120))


def terrazzo(x, y):
    """Chips of four colours, some 10 pixels apart, in a pale ground."""
    near, second, _, _, i, j = _cells(x, y, 10, 0.85, 23)
    chip = _pick(
        _chance(i, j, 29) * 4, _rgb(196, 98, 84), _rgb(58, 104, 100), _rgb(222, 172, 70), _rgb(70, 58, 84)
    )
    ground = (second - near < 2.2) | (_chance(i, j, 31) < 0.2)
    return np.where(ground[..., None], _rgb(234, 228, 216), chip)


SURFACES: dict[str, Surface] = {
    f.__name__: f for f in (bricks, scales, leopard, houndstooth, plaid, basket, flames, terrazzo)
}


def paint(
    surface: Surface, size: int = 128, turn: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """A square of ``surface``, turned (degrees) and shifted (pixels), sRGB 0 to 1, float32 (size, size,
    3)."""
    fine = 4
    axis = (np.arange(size * fine) + 0.5) / fine - size / 2
    x, y = np.meshgrid(axis, axis)
    a = np.radians(turn)
    drawn = surface(np.cos(a) * x + np.sin(a) * y + shift[0], -np.sin(a) * x + np.cos(a) * y + shift[1])
    return drawn.reshape(size, fine, size, fine, 3).mean((1, 3)).astype(np.float32)
