"""Drawn views: they change everything but the attribute, each with the words that say what was changed.

What the prompt explains the token need not learn: a shape is shown in many named looks, an appearance on many
named shapes. Both work on the mask alone and know nothing of the world's truth about the reference.
"""

import numpy as np

from ...learning.bank import Words
from ...learning.compose import Drawer, View, ViewSource, composite, move_subject, surface_from_within
from . import captions, colours, patterns
from .world import PERIODS, Spec, draw_names, draw_tint, silhouette, surface

# Words any Stable Diffusion knows, with outlines to cut an appearance into
CUTS = ("circle", "square", "triangle", "star", "heart", "diamond", "hexagon", "cross", "oval", "flower",
        "drop", "semicircle")
LOOKS = tuple(patterns.KNOWN)
# half of a cut's longer side, where 128 is the picture's shorter: subjects fill most of a picture
CUT_RADIUS = (34.0, 48.0)


def _background(
    rng: np.random.Generator, shape: tuple[int, int], avoid: tuple[str, ...], tint: int
) -> tuple[str, np.ndarray]:
    name = str(rng.choice(colours.distinct_from(avoid) or colours.NAMES))
    h, w = shape
    slope = rng.uniform(-0.1, 0.1, 2) * (rng.random() < 0.5)
    ramp = 1 + slope[0] * np.linspace(-1, 1, w)[None, :] + slope[1] * np.linspace(-1, 1, h)[:, None]
    return name, colours.paint(name, tint, 9) * ramp[..., None].astype(np.float32)


def nearest_names(image: np.ndarray, mask: np.ndarray) -> tuple[str, ...]:
    """The named colours that cover most of the masked picture, so that a background can stand apart from
    them."""
    pixels = image[mask > 0.5][::7]
    table = np.stack([colours.rgb(c) for c in colours.NAMES])
    counts = np.bincount(((pixels[:, None] - table) ** 2).sum(-1).argmin(1), minlength=len(table))
    return tuple(colours.NAMES[i] for i in counts.argsort()[::-1] if counts[i] > 0.15 * counts.sum())


def recolour(image: np.ndarray, mask: np.ndarray) -> Drawer:
    """The reference's silhouette in a random named look on a random named background: geometry kept, all else
    new.

    It is moved, turned and scaled only a little: poses take steps that its outline needs.
    """
    (h, w), side = mask.shape, max(mask.shape)

    def draw(rng: np.random.Generator) -> View:
        moved, _ = move_subject(mask, image, rng, (0.9, 1.1), 5, 0.3)
        pattern = str(rng.choice(LOOKS))
        names, tint = draw_names(rng, pattern), draw_tint(rng)
        background, back = _background(rng, (h, w), names, tint)
        rows, columns = np.nonzero(moved > 0.5 * moved.max())
        spec = Spec(shape="circle", pattern=pattern, colours=names, background=background,
                    centre=(float(columns.mean()) * 128 / side, float(rows.mean()) * 128 / side),
                    period=float(np.exp(rng.uniform(*np.log(PERIODS)))),
                    pattern_angle=float(rng.uniform(0, 180)), phase=tuple(rng.uniform(-4, 4, 2)), tint=tint,
                    grain=int(rng.integers(1, 2**31)))
        front = surface(spec, side)[:h, :w]
        slope = rng.uniform(-0.14, 0.14, 2)
        front = front * (1 + slope[0] * np.linspace(-1, 1, w)[None, :, None]
                         + slope[1] * np.linspace(-1, 1, h)[:, None, None])
        look = captions.appearance_phrase(
            spec, "pattern" if pattern == "solid" and rng.random() < 0.5 else ""
        )
        return View(
            composite(front, back, moved), moved.astype(np.float32), look, f"on a {background} background"
        )

    return draw


def reshape(image: np.ndarray, mask: np.ndarray) -> Drawer:
    """A random named shape cut from the reference's surface on a random named background: surface kept,
    outline new.

    The cut is as large as subjects are; where it reaches beyond the reference's own, the surface goes on
    mirrored.
    """
    (h, w), small, names = mask.shape, min(mask.shape), nearest_names(image, mask)
    top, left = (h - small) // 2, (w - small) // 2
    within = surface_from_within(image, mask)

    def draw(rng: np.random.Generator) -> View:
        surface = within(rng)
        word = str(rng.choice(CUTS))
        spec = Spec(shape=word, pattern="solid", colours=("red",), background="white",
                    radius=float(rng.uniform(*CUT_RADIUS)), centre=(64.0, 64.0),
                    rotation=float(rng.uniform(-14, 14)))
        cut = np.zeros((h, w), np.float32)
        cut[top:top + small, left:left + small] = silhouette(spec, small)
        moved, front = move_subject(cut, surface, rng, (0.9, 1.1), 10, 0.8)
        background, back = _background(rng, (h, w), names, draw_tint(rng))
        return View(
            composite(front, back, moved), moved.astype(np.float32), word, f"on a {background} background"
        )

    return draw


def own_words() -> Words:
    """What the pocket model is asked for where views are to be its own: every pattern in colours of its own,
    the cuts, and plain grounds."""
    rng, surfaces = np.random.default_rng(5), {}
    for pattern in LOOKS:
        spec = Spec(shape="square", pattern=pattern, colours=draw_names(rng, pattern), background="white")
        ground = str(rng.choice(colours.distinct_from(spec.colours)))
        look = captions.appearance_phrase(spec)
        surfaces[look] = f"a photo of a {look} square on a {ground} background"
    things = {word: f"a photo of a {'blue' if i % 2 else 'red'} {word} on a white background"
              for i, word in enumerate(CUTS)}
    grounds = {f"on a {name} background": f"a {name} background" for name in colours.NAMES}
    return Words(things, surfaces, grounds)


VIEW_SOURCES = {"recolour": ViewSource(recolour, needs_outline=True), "reshape": ViewSource(reshape)}
