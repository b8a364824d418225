"""The scores of every table: S for shape, A for appearance, P for the prompt, H for all three, and leak.

    S = clip((IoU − floor) / (ceiling − floor))        A = clip((1 − d) / (1 − d_ceiling))
    H = 3 / (1/S + 1/A + 1/P)                          d = min(1, max(colour / its floor, texture / its
    floor))

Floors and ceilings belong to one reference and are measured by the judge itself. The worse of colours and
texture
decides: right colours in a wrong pattern are as wrong as the right pattern in wrong colours. Clipping comes
after the mean over the pictures: clipped one by one, shapes that have nothing to do with the reference would
average well above 0. Only d ends at 1 for each picture: an appearance that is farther off than others are is
no worse than they.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import lookup
from ..reference.photograph import subject_of
from ..worlds.pocket.world import Spec, render
from .appearance import Appearance, colour_distance
from .comparison import appearance_again, other_appearances, other_shapes, picture_again, shape_again
from .prompt_check import PARTS, check
from .reading import Reading, read, read_or_none
from .shape import Matcher
from .texture import texture_distance

# share of other appearances whose colours, texture are nearer than the floor. The mean would let
NEARER = (1 / 3, 1 / 4)
                      # a wrong pattern of the right period pass for half right; so, both mistakes cost alike
LEAST_ROOM = 0.1      # between an appearance drawn again and others; below, nothing could be told
Images = np.ndarray | Sequence[np.ndarray] | Sequence[Reading | None]


@dataclass(frozen=True)
class Score:
    """A score over some pictures: ``raw`` per picture, unclipped (0 floor, 1 ceiling), and their clipped
    ``mean``."""

    raw: tuple[float, ...]

    @property
    def values(self) -> tuple[float, ...]:
        """One score per picture, 0 to 1."""
        return tuple(float(np.clip(value, 0, 1)) for value in self.raw)

    @property
    def mean(self) -> float:
        """The score of the whole set, 0 to 1: the mean of ``raw``, clipped; 0 for no pictures."""
        return float(np.clip(np.mean(self.raw), 0, 1)) if self.raw else 0.0


@dataclass(frozen=True)
class Scale:
    """Floors and ceilings of one reference: IoU 0 to 1, colour distances in CIELAB units, texture distances.

    Floors of distances have ``NEARER`` of the other appearances below them. ``distance_ceiling`` is d of the
    reference's own appearance drawn again; d of another appearance is 1.
    """

    iou_floor: float
    iou_ceiling: float
    colour_floor: float
    texture_floor: float
    colour_ceiling: float
    texture_ceiling: float
    distance_ceiling: float

    def distance(self, colour: float, texture: float) -> float:
        """d of a colour and a texture distance: the worse of the two, each divided by its floor, at most
        1."""
        return min(1.0, max(colour / self.colour_floor, texture / self.texture_floor))


def _distances(a: Appearance, b: Appearance) -> tuple[float, float]:
    """Colour and texture distance of two appearances."""
    return colour_distance(a.colours, b.colours), texture_distance(a.texture, b.texture)


def readings(images: Images) -> list[Reading | None]:
    """Read one picture (h, w, 3), several, or pass on what is already read; ``None`` where no subject is
    found."""
    items = [images] if isinstance(images, np.ndarray) and images.ndim == 3 else images
    return [item if item is None or isinstance(item, Reading) else read_or_none(item) for item in items]


class Judge:
    """Scores pictures against one reference.

    Build with :meth:`of_spec` for a picture the world can draw, :meth:`of_picture` for any other.
    """

    def __init__(self, reference: Reading, scale: Scale):
        self.reference, self.scale = reference, scale
        self._matcher = Matcher(reference.mask)

    @classmethod
    def of_spec(cls, spec: Spec) -> "Judge":
        """Judge against the picture that ``spec`` draws; "other" means another shape, and other colours and
        pattern."""
        picture = render(spec)
        return cls._measured(
            read(picture.image, picture.mask),
            [reading for other, reading in other_shapes() if other.shape != spec.shape],
            [read(render(again).image) for again in shape_again(spec)],
            [reading for other, reading in other_appearances()
             if other.pattern != spec.pattern and set(other.colours) != set(spec.colours)],
            [read(render(again).image) for again in appearance_again(spec)])

    @classmethod
    def of_picture(cls, image: np.ndarray, mask: np.ndarray | None = None) -> "Judge":
        """Judge against any picture (h, w, 3), float 0 to 1; without ``mask`` (h, w) the subject is found.

        Floors come from the world's drawings, ceilings from the picture itself, turned, scaled and softly
        bent. Raises ESCDiffError when there is no mask and no subject that is found for sure.
        """
        reference = read(image, subject_of(image)[0] if mask is None else mask)
        return cls._measured(reference, [reading for _, reading in other_shapes()],
                             picture_again(image, reference.mask, turn=12, part=False),
                             [reading for _, reading in other_appearances()],
                             picture_again(image, reference.mask, turn=90, part=True))

    @classmethod
    def _measured(cls, reference: Reading, shapes: list[Reading], shapes_again: list[Reading],
                  appearances: list[Reading], appearances_again: list[Reading]) -> "Judge":
        """Measure the floors and ceilings of ``reference`` on other subjects and on itself again."""
        matcher, own = Matcher(reference.mask), reference.appearance
        iou = [np.mean([matcher.align(r.silhouette).iou for r in group]) for group in (shapes, shapes_again)]
        others, again = (np.array([_distances(own, r.appearance) for r in group])       # (pictures, 2)
                         for group in (appearances, appearances_again))
        floors = (np.quantile(values, share) for values, share in zip(others.T, NEARER, strict=True))
        colour, texture = zip(floors, again.mean(0), strict=True)
        scale = Scale(
            *(float(x) for x in (*iou, colour[0], texture[0], colour[1], texture[1])), distance_ceiling=0.0
        )
        return cls(
            reference,
            replace(scale, distance_ceiling=float(np.mean([scale.distance(*pair) for pair in again]))),
        )

    def iou(self, reading: Reading) -> float:
        """IoU of a picture's silhouette with the reference's after the best alignment, 0 to 1."""
        return self._matcher.align(reading.silhouette).iou

    def distance(self, appearance: Appearance) -> float:
        """d: the worse of colour and texture distance, each divided by its floor; 1 = as far as other
        appearances."""
        return self.scale.distance(*_distances(self.reference.appearance, appearance))

    def shape(self, images: Images) -> Score:
        """S of the pictures, each (h, w, 3) float 0 to 1, against the reference; no subject found scores
        0."""
        room = self.scale.iou_ceiling - self.scale.iou_floor
        return Score(
            tuple(0.0 if r is None else (self.iou(r) - self.scale.iou_floor) / room for r in readings(images))
        )

    def appearance(self, images: Images) -> Score:
        """A of the pictures, each (h, w, 3) float 0 to 1, against the reference; no subject found scores
        0."""
        room = max(1 - self.scale.distance_ceiling, LEAST_ROOM)
        return Score(
            tuple(0.0 if r is None else (1 - self.distance(r.appearance)) / room for r in readings(images))
        )


def prompt_share(
    images: Sequence[np.ndarray], specs: Spec | Sequence[Spec], what: tuple[str, ...] = PARTS
) -> float:
    """P: share of pictures in which every part ``what`` is as the specification (one, or one each) asks."""
    specs = [specs] * len(images) if isinstance(specs, Spec) else specs
    right = [check(image, spec, what).passed() for image, spec in zip(images, specs, strict=True)]
    return float(np.mean(right)) if right else 0.0


def harmonic_mean(*scores: float) -> float:
    """n / Σ 1/score; 0 as soon as one score is 0."""
    return len(scores) / sum(1 / score for score in scores) if min(scores) > 0 else 0.0


@dataclass(frozen=True)
class MixScores:
    """A mix against its two references: S, A, P, and H of the three."""

    shape: float
    appearance: float
    prompt: float

    @property
    def harmonic(self) -> float:
        """H = 3 / (1/S + 1/A + 1/P)."""
        return harmonic_mean(self.shape, self.appearance, self.prompt)


def mix_scores(
    images: Sequence[np.ndarray], shape: Judge, appearance: Judge, prompt: float = 1.0
) -> MixScores:
    """Score mixes of the shape of one reference with the appearance of another; ``prompt`` is their P."""
    seen = readings(images)
    return MixScores(shape.shape(seen).mean, appearance.appearance(seen).mean, prompt)


@dataclass(frozen=True)
class AttributeScores:
    """One row of the leak matrix: how much of its own kind an attribute brought, and how much of the other
    kind."""

    kind: str
    fidelity: float
    leak: float


KINDS = {"shape": (Judge.shape, Judge.appearance), "appearance": (Judge.appearance, Judge.shape)}


def attribute_scores(kind: str, images: Sequence[np.ndarray], judge: Judge) -> AttributeScores:
    """Fidelity and leak of an attribute of ``kind`` ``shape`` or ``appearance``, against its own reference's
    judge.

    Raises ESCDiffError for another kind.
    """
    own, other = lookup(KINDS, kind, "kind of attribute")
    seen = readings(images)
    return AttributeScores(kind, own(judge, seen).mean, other(judge, seen).mean)
