"""Hold a picture of the pocket world against what its prompt asked for: background, colours, shape, pattern.

Everything is read from the picture alone; the specification only says what was asked for.
"""

from dataclasses import asdict, dataclass
from functools import cache

import numpy as np

from ..errors import ESCDiffError, lookup
from ..reference.subject import Segmentation, as_working, find_subject
from ..worlds.pocket import colours, patterns, shapes
from ..worlds.pocket.world import Spec, silhouette
from .palette import colour_names, colours_right, palette
from .shape import Matcher, Silhouette, silhouette_of
from .surface_net import best_surface

PARTS = ("background", "colours", "shape", "pattern")
FINALISTS = 3         # shapes that the quick comparison leaves for the exact one


@dataclass(frozen=True)
class PromptCheck:
    """Which parts of the prompt the picture shows; ``None`` for a part that was not asked about."""

    background: bool | None = None
    colours: bool | None = None
    shape: bool | None = None
    pattern: bool | None = None

    def passed(self) -> bool:
        """Is every part that was asked about right?"""
        return all(value for value in asdict(self).values() if value is not None)


@cache
def _matcher(shape: str) -> Matcher:
    """The upright silhouette of a pocket shape."""
    return Matcher(silhouette(Spec(shape, "solid", ("red",), "white")))


def best_shape(mask: np.ndarray, candidates: tuple[str, ...] = tuple(shapes.KNOWN)) -> str:
    """The candidate whose silhouette fits ``mask`` (h, w) best. Raises ESCDiffError when the mask is
    empty."""
    seen: Silhouette = silhouette_of(mask)
    likeness = {name: _matcher(name).similarity(seen) for name in candidates}
    finalists = sorted(candidates, key=likeness.get)[-FINALISTS:]
    return max(finalists, key=lambda name: _matcher(name).align(seen).iou)


def background_name(subject: Segmentation) -> str:
    """The named colour nearest to the background's mean."""
    outside = (
        subject.background[~subject.mask] if not subject.mask.all() else subject.background.reshape(-1, 3)
    )
    return colours.NAMES[int(colour_names(outside.mean(0, keepdims=True))[0])]


def _plus(known: dict, name: str) -> tuple[str, ...]:
    """The known names, and ``name`` too when it is a held-out one."""
    return tuple(dict.fromkeys((*known, name)))


def _background(image: np.ndarray, subject: Segmentation, spec: Spec) -> bool:
    return background_name(subject) == spec.background


def _colours(image: np.ndarray, subject: Segmentation, spec: Spec) -> bool:
    return colours_right(palette(image, subject.mask), spec.colours, gradient=spec.pattern == "gradient")


def _shape(image: np.ndarray, subject: Segmentation, spec: Spec) -> bool:
    return best_shape(subject.mask, _plus(shapes.KNOWN, spec.shape)) == spec.shape


def _pattern(image: np.ndarray, subject: Segmentation, spec: Spec) -> bool:
    return best_surface(image, subject.mask, _plus(patterns.KNOWN, spec.pattern)) == spec.pattern


CHECKS = dict(zip(PARTS, (_background, _colours, _shape, _pattern), strict=True))


def check(image: np.ndarray, spec: Spec, what: tuple[str, ...] = PARTS) -> PromptCheck:
    """Check the parts ``what`` of a picture (h, w, 3), float 0 to 1, against ``spec``; its pose does not
    matter.

    A picture without a subject on a plain background fails every part asked about. Raises ESCDiffError for an
    unknown part or an array that is not a picture.
    """
    checks = {part: lookup(CHECKS, part, "part of a prompt") for part in what}
    image = as_working(image)
    try:
        subject = find_subject(image)
    except ESCDiffError:
        return PromptCheck(**dict.fromkeys(checks, False))
    return PromptCheck(**{part: bool(test(image, subject, spec)) for part, test in checks.items()})
