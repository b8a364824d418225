"""Surfaces drawn again and changed on purpose, step by step, to see what a judge of appearances says. Nothing
of the pocket world takes part. Pictures are sRGB, 0 to 1, float32 (128, 128, 3); masks bool (128, 128)."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage
from skimage.color import lab2rgb, rgb2lab
from surfaces import SURFACES, paint

SIZE = 128
Draw = Callable[[np.random.Generator], np.ndarray]


def blob(rng: np.random.Generator) -> np.ndarray:
    """A random round silhouette."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2 + 0.5
    angle, radius = np.arctan2(y, x), rng.uniform(40, 50)
    for k in (2, 3, 4, 5):
        radius = radius * (1 + rng.uniform(0, 0.5 / k) * np.cos(k * angle + rng.uniform(0, 6.3)))
    return np.hypot(x, y) < np.minimum(radius, 60)


def lit(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brighter on one side than on the other."""
    axis, slope = np.linspace(-1, 1, SIZE), rng.uniform(-0.14, 0.14, 2)
    return np.clip(image * (1 + slope[0] * axis + slope[1] * axis[:, None])[..., None], 0, 1).astype(
        np.float32
    )


def _endless(name: str) -> Draw:
    return lambda rng: paint(SURFACES[name], SIZE, rng.uniform(0, 360), tuple(rng.uniform(-5000, 5000, 2)))


def _noise(period: float, stretch: float, hardness: float, *colours: tuple[int, int, int]) -> Draw:
    """Noise of one ``period`` in pixels, ``stretch`` times as long as wide, between two colours."""
    low, high = (np.asarray(c) / 255 for c in colours)

    def draw(rng):
        fy, fx = np.meshgrid(*2 * [np.fft.fftfreq(2 * SIZE)], indexing="ij")
        turn = rng.uniform(0, np.pi)
        u, v = np.cos(turn) * fx + np.sin(turn) * fy, stretch * (np.cos(turn) * fy - np.sin(turn) * fx)
        band = np.exp(-((np.hypot(u, v) * period - 1) / 0.35) ** 2)
        value = np.fft.ifft2(np.fft.fft2(rng.normal(size=fx.shape)) * band).real[:SIZE, :SIZE]
        share = np.clip(0.5 + hardness * value / value.std(), 0, 1)[..., None]
        return (low * (1 - share) + high * share).astype(np.float32)

    return draw


LOOKS: dict[str, Draw] = {
    **{name: _endless(name) for name in SURFACES},
    "fine spots": _noise(8, 1, 1.5, (30, 60, 50), (190, 220, 120)),
    "large spots": _noise(20, 1, 1.5, (90, 40, 120), (240, 170, 190)),
    "clouds": _noise(15, 1, 0.35, (60, 110, 190), (235, 240, 250)),
    "wood": _noise(10, 0.15, 0.7, (110, 66, 34), (214, 160, 100)),
}


def _along(image: np.ndarray) -> np.ndarray:
    """Every pixel's place along the picture's main direction of colour, (h·w,)."""
    lab = rgb2lab(image).reshape(-1, 3)
    return (lab - lab.mean(0)) @ np.linalg.eigh(np.cov(lab.T))[1][:, -1]


def recoloured(colours: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """The very pixels of ``colours``, put where ``pattern`` has its own of the same rank."""
    result = np.empty((SIZE * SIZE, 3), np.float32)
    result[np.argsort(_along(pattern), kind="stable")] = colours.reshape(-1, 3)[
        np.argsort(_along(colours), kind="stable")
    ]
    return result.reshape(SIZE, SIZE, 3)


def faded(image: np.ndarray, share: float) -> np.ndarray:
    """The pattern blended away, towards the mean colour."""
    return image * (1 - share) + image.mean((0, 1)) * share


def hue_moved(image: np.ndarray, distance: float) -> np.ndarray:
    """All colours moved by ``distance`` CIELAB units from red towards green, or the other way if they are
    rather green."""
    lab = rgb2lab(image)
    return np.clip(lab2rgb(lab - [0, distance * np.sign(lab[..., 1].mean()), 0]), 0, 1).astype(np.float32)


def blurred(image: np.ndarray, width: float) -> np.ndarray:
    return ndimage.gaussian_filter(image, (width, width, 0))


def enlarged(image: np.ndarray, factor: float) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE] / factor
    return np.stack([ndimage.map_coordinates(image[..., c], (y, x), order=1) for c in range(3)], -1)


# What is done, and how much of it, from nothing on.
SERIES: dict[str, tuple[Callable[[np.ndarray, float], np.ndarray], tuple[float, ...]]] = {
    "pattern blended away": (faded, (0, 0.25, 0.5, 0.75, 1)),
    "colours moved, CIELAB units": (hue_moved, (0, 10, 20, 35, 50)),
    "blurred, pixels": (blurred, (0, 1, 2, 3, 5)),
    "period, times": (enlarged, (1, 1.1, 1.25, 1.5, 2)),
}
