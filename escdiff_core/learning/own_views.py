"""Views of surfaces, grounds and outlines that the model draws of its own: they teach it the attribute, and
not another hand.

The reference gives what is to be learned, and the words of the bank say what else is to be seen, as they do
of drawn views.
"""

import numpy as np
from scipy import ndimage
from skimage.transform import resize

from ..errors import ESCDiffError
from .bank import Bank
from .compose import Drawer, View, ViewSource, composite, move_subject, surface_from_within

SHADE = 1 / 12                  # of the longer side: what is wider than this is light, and no pattern
LIGHT = (0.7, 1.3)              # what light may make of a surface
NEAR = 0.5                      # of a surface's side that is seen at the least: no two views show the same


def recolour(image: np.ndarray, mask: np.ndarray, bank: Bank) -> Drawer:
    """The reference's silhouette, with its light and shade, in a surface of the bank's on a ground of the
    bank's: geometry kept, all else new."""
    light = _light(image, mask)

    def draw(rng: np.random.Generator) -> View:
        moved, shade = move_subject(mask, light, rng, (0.9, 1.1), 5, 0.3)
        look, surface = bank.surfaces[rng.integers(len(bank.surfaces))]
        front = np.clip(_fitted(surface, mask.shape, rng, NEAR) * shade[..., :1], 0, 1)
        behind, ground = _apart(bank.grounds, front.mean((0, 1)), rng)
        return View(composite(front, _fitted(ground, mask.shape, rng), moved), moved.astype(np.float32), look,
                    behind)

    return draw


def reshape(image: np.ndarray, mask: np.ndarray, bank: Bank) -> Drawer:
    """An outline of the bank's cut from the reference's surface, on a ground of the bank's: surface kept,
    outline new. Raises ESCDiffError for a bank without outlines."""
    if not bank.things:
        raise ESCDiffError(
            "of the things that the model drew none stands out from its ground, so there is no outline to "
            "learn with; take a recipe without -own, whose views are drawn"
        )
    surface, colour = surface_from_within(image, mask), image[mask > 0.5 * mask.max()].mean(0)

    def draw(rng: np.random.Generator) -> View:
        word, outline = bank.things[rng.integers(len(bank.things))]
        behind, ground = _apart(bank.grounds, colour, rng)
        moved, front = move_subject(_whole(outline, mask.shape), surface(rng), rng, (0.9, 1.1), 10, 0.8)
        return View(composite(front, _fitted(ground, mask.shape, rng), moved), moved.astype(np.float32), word,
                    behind)

    return draw


def _apart(grounds: tuple, colour: np.ndarray, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """Of two random grounds the one whose mean is further from ``colour``: what lies on it is to be seen."""
    two = [grounds[i] for i in rng.integers(len(grounds), size=2)]
    return max(two, key=lambda row: float(np.linalg.norm(row[1].mean((0, 1)) / 255 - colour)))


def _fitted(picture: np.ndarray, shape: tuple[int, int], rng: np.random.Generator, least: float = 1.0
            ) -> np.ndarray:
    """A random part of a square uint8 ``picture``, ``least`` of its side or more, that fills a frame of
    ``shape``, mirrored or not: float32, 0 to 1."""
    side, part = max(shape), round(len(picture) * rng.uniform(least, 1))
    top, left = rng.integers(len(picture) - part + 1, size=2)
    picture = picture[top:top + part, left:left + part].astype(np.float32) / 255
    if len(picture) != side:
        picture = resize(picture, (side, side), order=1, anti_aliasing=len(picture) > side)
    top, left = (int(rng.integers(side - length + 1)) for length in shape)
    part = picture[top:top + shape[0], left:left + shape[1]]
    return part[:, ::-1] if rng.random() < 0.5 else part


def _whole(outline: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A square ``outline`` in the middle of a frame of ``shape``, whole."""
    side, outline = min(shape), outline.astype(np.float32)
    small = outline if len(outline) == side else resize(outline, (side, side), order=1)
    made = np.zeros(shape, np.float32)
    top, left = ((length - side) // 2 for length in shape)
    made[top:top + side, left:left + side] = small
    return made


def _light(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """How light falls on the subject, (h, w, 3) of mean about 1: what of its brightness varies slowly."""
    sigma, inside = SHADE * max(mask.shape), mask > 0.5
    brightness = image.mean(-1)
    near = ndimage.gaussian_filter(inside.astype(np.float32), sigma)
    slow = ndimage.gaussian_filter(np.where(inside, brightness, 0).astype(np.float32), sigma) / (near + 1e-4)
    mean = float(brightness[inside].mean()) if inside.any() else 1.0
    light = np.where(near > 0.05, np.clip(slow / max(mean, 0.05), *LIGHT), 1)
    return np.repeat(light[..., None], 3, -1).astype(np.float32)


VIEW_SOURCES = {
    "recolour-own": ViewSource(recolour, needs_outline=True, needs_bank=True),
    "reshape-own": ViewSource(reshape, needs_bank=True),
}
