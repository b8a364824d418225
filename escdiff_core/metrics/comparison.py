"""What floors and ceilings are measured on: pictures drawn by the world, and the reference drawn or bent
again."""

from dataclasses import replace
from functools import cache

import numpy as np
from scipy import ndimage

from ..reference.subject import as_working, mask_at
from ..worlds.pocket import colours, patterns, shapes
from ..worlds.pocket.world import Spec, draw_spec, render
from .reading import Reading, read

SEED = 20_240         # of every comparison picture, so that a judge is the same each time it is built
AGAIN = 10            # pictures a ceiling is measured on
OTHERS = 3            # pictures per pattern that a floor of appearance is measured on
# pixels, evenly by their logarithm: a reference of fine pattern has others as fine beside it
PERIODS = (6.0, 30.0)
# pixels of the smooth random bending of a reference that has no specification; half for its surface
BEND = 1.5
ALIKE = (0.95, 1.06)  # scales at which a surface is still the same


@cache
def other_shapes() -> tuple[tuple[Spec, Reading], ...]:
    """One picture of every shape, known and held-out, in any pose and appearance."""
    rng = np.random.default_rng(SEED)
    return tuple(
        (spec, read(render(spec).image)) for spec in (draw_spec(rng, shape=name) for name in shapes.ALL)
    )


@cache
def other_appearances() -> tuple[tuple[Spec, Reading], ...]:
    """``OTHERS`` pictures of every pattern, known and held-out, of any period, in any colours on any
    shape."""
    rng = np.random.default_rng(SEED + 1)
    specs = [replace(draw_spec(rng, shape=str(rng.choice(list(shapes.ALL))), pattern=name), period=period)
             for name in patterns.ALL for period in np.geomspace(*PERIODS, OTHERS)]
    return tuple((spec, read(render(spec).image)) for spec in specs)


def shape_again(spec: Spec, count: int = AGAIN, seed: int = SEED) -> list[Spec]:
    """The same shape in other poses and appearances."""
    rng = np.random.default_rng((seed, 2))
    return [draw_spec(rng, shape=spec.shape) for _ in range(count)]


def appearance_again(spec: Spec, count: int = AGAIN, seed: int = SEED) -> list[Spec]:
    """The same pattern at the same scale in the same colours, on other shapes, turned, shifted and shaded
    anew."""
    rng = np.random.default_rng((seed, 3))
    others = [name for name in shapes.KNOWN if name != spec.shape]
    return [
        replace(draw_spec(rng, shape=str(rng.choice(others)),
                          pattern=spec.pattern), colours=spec.colours, period=spec.period, tint=spec.tint,
                background=str(rng.choice(colours.distinct_from(spec.colours)))) for _ in range(count)
    ]


def _bent(image: np.ndarray, mask: np.ndarray, angle: float, bend: float, scale: float,
          rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Turn (degrees), scale and softly bend (pixels) a picture and its mask together, as sharp as it was."""
    height, width = mask.shape
    y, x = np.meshgrid(np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32), indexing="ij")
    waves = [ndimage.gaussian_filter(rng.normal(size=mask.shape), 16, mode="wrap") for _ in range(2)]
    waves = [bend * part / max(float(np.abs(part).max()), 1e-6) for part in waves]
    a = np.radians(angle)
    cy, cx = (height - 1) / 2, (width - 1) / 2
    u, v = (x - cx) / scale, (y - cy) / scale
    grid = [cy - np.sin(a) * u + np.cos(a) * v + waves[0], cx + np.cos(a) * u + np.sin(a) * v + waves[1]]
    planes = [ndimage.map_coordinates(image[..., c], grid, order=3, mode="nearest") for c in range(3)]
    cover = ndimage.map_coordinates(mask.astype(np.float32), grid, order=1)
    return np.clip(np.stack(planes, -1), 0, 1), cover > 0.5


def picture_again(
    image: np.ndarray, mask: np.ndarray, turn: float, part: bool, count: int = AGAIN
) -> list[Reading]:
    """Readings of a reference picture bent ``count`` times, turned up to ±``turn`` degrees.

    ``part``: only a random three quarters of the subject are read, so that the silhouette is another one.
    """
    image = as_working(image)
    mask = mask_at(mask, image.shape[:2])
    rng, readings = np.random.default_rng((SEED, 4)), []
    for _ in range(count):
        scale, bend = (rng.uniform(*ALIKE), 0.5 * BEND) if part else (rng.uniform(0.9, 1.15), BEND)
        picture, cover = _bent(image, mask, float(rng.uniform(-turn, turn)), bend, scale, rng)
        if part:
            rows, columns = np.nonzero(cover)
            direction = rng.uniform(0, 2 * np.pi)
            across = np.cos(direction) * columns + np.sin(direction) * rows
            cut = across > np.quantile(across, 0.75)
            cover[rows[cut], columns[cut]] = False
        readings.append(read(picture, cover))
    return readings
