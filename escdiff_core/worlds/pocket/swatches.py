"""Pictures that are all surface, of any colours and finely repeated: what an autoencoder finds hardest."""

import numpy as np

from . import patterns
from .grain import Grain
from .world import SIZE

PERIODS = (5.0, 24.0)  # pixels; drawn evenly in proportion
LEAST_APART = 0.35     # distance of a surface's first two colours, each channel 0 to 1
PATCHES = 0.7          # share of the pictures that show two surfaces and not one
LIT = 0.3              # share of the surfaces that are lighter to one side


def swatch(rng: np.random.Generator) -> np.ndarray:
    """One surface, or one in patches on another, float32 (128, 128, 3), 0 to 1. None of the held-out surfaces
    occurs."""
    image = _surface(rng)
    if rng.random() < PATCHES:
        x, y = np.meshgrid(np.arange(SIZE, dtype=np.float32), np.arange(SIZE, dtype=np.float32))
        share = np.clip(
            0.5 + 8 * Grain(int(rng.integers(1, 2**31))).noise(x, y, float(rng.uniform(40, 110))), 0, 1
        )
        image += share[..., None] * (_surface(rng) - image)
    return np.clip(image, 0, 1).astype(np.float32)


def _colours(rng: np.random.Generator) -> np.ndarray:
    """Three colours, the first two of which can be told apart, (3, 3)."""
    while True:
        colours = rng.random((3, 3))
        if np.linalg.norm(colours[0] - colours[1]) > LEAST_APART:
            return colours


def _surface(rng: np.random.Generator) -> np.ndarray:
    names = [
        name for name in (*patterns.KNOWN, patterns.UNNAMED) if name not in ("solid", "halved", "gradient")
    ]
    angle, period = rng.uniform(0, np.pi), float(np.exp(rng.uniform(*np.log(PERIODS))))
    x, y = np.meshgrid(np.arange(SIZE) - rng.uniform(0, SIZE), np.arange(SIZE) - rng.uniform(0, SIZE))
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    colours = _colours(rng)
    image = np.broadcast_to(colours[0], (SIZE, SIZE, 3))
    shares = patterns.shares(str(rng.choice(names)), u.astype(np.float32), v.astype(np.float32), period,
                             Grain(int(rng.integers(1, 2**31))))
    for share, colour in zip(shares, colours[1:], strict=False):
        image = image + share[..., None] * (colour - image)
    if rng.random() < LIT:
        image = image * (
            1
            + 0.25 * np.sin(angle + 1) * x[..., None] / SIZE
            + 0.25 * np.cos(angle + 1) * y[..., None] / SIZE
        )
    return image
