"""The demo's two references, drawn here point by point: the pocket model's world has neither the one nor the
other."""

import numpy as np
from PIL import Image, ImageDraw
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

SIDE = 128            # pixels
FINE = 4              # drawn so many times as large, then averaged
DUCK = (  # closed curves through points, in pixels: body, head, beak
    ((32, 64), (25, 82), (33, 102), (56, 113), (86, 112), (108, 97), (118, 72), (119, 53), (104, 66),
     (84, 69), (68, 62), (50, 56)), ((26, 42), (31, 25), (47, 17), (63, 24), (69, 41), (62, 58), (47, 66),
                                     (32, 59)), ((34, 38), (18, 37), (6, 44), (11, 53), (24, 56), (36, 54)),
)
DUCK_COLOUR, WATER = (247, 205, 70), (112, 172, 205)
PATCH, COAT, DUSK = (146, 84, 38), (240, 218, 172), (96, 122, 104)
PATCHES = 19.0        # pixels between the giraffe's patches
SEAM = 3.6            # pixels between two of them


def duck() -> np.ndarray:
    """A rubber duck in one colour, softly lit, float32 (SIDE, SIDE, 3), 0 to 1."""
    canvas = Image.new("L", (SIDE * FINE, SIDE * FINE), 0)
    for curve in DUCK:
        points = np.asarray((*curve, curve[0]), float) * FINE
        line = CubicSpline(np.arange(len(points)), points, bc_type="periodic")(
            np.linspace(0, len(curve), 400)
        )
        ImageDraw.Draw(canvas).polygon([tuple(p) for p in line], fill=255)
    axis = np.linspace(-1, 1, SIDE, dtype=np.float32)
    light = (1 - 0.08 * axis[:, None] - 0.05 * axis)[..., None]
    return _on(
        _rgb(DUCK_COLOUR) * light, _rgb(WATER), np.asarray(canvas.reduce(FINE), np.float32)[..., None] / 255
    )


def giraffe() -> np.ndarray:
    """A round piece of a giraffe's coat, float32 (SIDE, SIDE, 3), 0 to 1."""
    axis = (np.arange(SIDE * FINE) + 0.5) / FINE
    x, y = np.meshgrid(axis, axis)
    rows, columns = np.mgrid[-1:9, -1:9]
    spots = np.stack([(columns + 0.5 * (rows % 2)).ravel(), rows.ravel()], 1) * PATCHES
    spots = spots + np.random.default_rng(5).uniform(-0.3, 0.3, spots.shape) * PATCHES
    near, second = np.moveaxis(cKDTree(spots).query(np.stack([x, y], -1), k=2)[0], -1, 0)
    coat = np.where(((second - near) > SEAM)[..., None], _rgb(PATCH), _rgb(COAT))
    disc = (np.hypot(x - SIDE / 2, y - SIDE / 2) < 0.42 * SIDE)[..., None]
    picture = _on(coat, _rgb(DUSK), disc)
    return picture.reshape(SIDE, FINE, SIDE, FINE, 3).mean((1, 3)).astype(np.float32)


def _rgb(values: tuple[int, int, int]) -> np.ndarray:
    return np.asarray(values, np.float32) / 255


def _on(front: np.ndarray, back: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.clip(front * mask + back * (1 - mask), 0, 1)
