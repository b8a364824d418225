"""What is drawn with an attribute, and how it is scored (METHODS: S, A, P, H and leak): the same for demo and benchmarks.

References are held-out shapes and patterns that the pocket model never saw. A shape attribute is asked for in four named
looks, an appearance attribute on four named shapes, a mix on four backgrounds; every prompt names a background.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..method.mix import Mix, Use
from ..metrics.prompt_check import check
from ..metrics.scores import Judge, harmonic_mean
from ..model.load import DiffusionModel
from ..pocket import colours, patterns, shapes
from ..pocket.captions import appearance_phrase
from ..pocket.config import GUIDANCE
from ..pocket.world import SIZE, Spec, draw_spec, render
from ..reference import Reference
from ..words import with_articles

PICTURES = 4      # per attribute or mix and seed


def shape_references(count: int = len(shapes.HELD_OUT)) -> list[Spec]:
    """The first ``count`` held-out shapes, each in a known look, always the same."""
    looks = [p for p in patterns.KNOWN if p != "solid"]
    return [_centred(draw_spec(np.random.default_rng((101, i)), shape=name, pattern=looks[i % len(looks)]))
            for i, name in enumerate(list(shapes.HELD_OUT)[:count])]


def appearance_references(count: int = len(patterns.HELD_OUT)) -> list[Spec]:
    """The first ``count`` held-out patterns, each on a known roomy shape, always the same."""
    carriers = ("circle", "heart", "square", "hexagon", "house", "oval")
    names = list(patterns.HELD_OUT)
    return [_centred(draw_spec(np.random.default_rng((202, i)), shape=carriers[i % len(carriers)], pattern=names[i % len(names)]))
            for i in range(count)]


def _centred(spec: Spec) -> Spec:
    return replace(spec, radius=48.0, centre=(64.0, 64.0))


def as_reference(spec: Spec) -> Reference:
    """The picture of ``spec`` with its exact mask."""
    picture = render(spec)
    return Reference.from_arrays(picture.image, picture.mask, SIZE, f"the picture of a {spec.shape}")


@dataclass(frozen=True)
class Scores:
    """Means over pictures, 0 to 1; None where a part was not asked for. ``shape_leak``/``appearance_leak``: see METHODS §4."""

    shape: float | None = None
    appearance: float | None = None
    prompt: float | None = None
    leak: float | None = None

    @property
    def harmonic(self) -> float:
        return harmonic_mean(*(s for s in (self.shape, self.appearance, self.prompt) if s is not None))


@dataclass(frozen=True)
class Drawn:
    """Pictures (n, h, w, 3), the prompts they came from, and their scores."""

    images: np.ndarray
    prompts: tuple[str, ...]
    scores: Scores


def _draw(model: DiffusionModel, mix: Mix, prompts: Sequence[str], seed: int, steps: int, guidance: float) -> np.ndarray:
    return np.concatenate([mix.draw(p, steps=steps, guidance_scale=guidance, seed=1000 * seed + i)
                           for i, p in enumerate(prompts)])


def _other(seed: int, i: int, avoid: Spec, **fixed) -> Spec:
    """A known specification that shares neither shape, pattern nor colours with the reference ``avoid``."""
    for attempt in range(1000):
        spec = draw_spec(np.random.default_rng((303, seed, i, attempt)), **fixed)
        if spec.pattern != avoid.pattern and spec.shape != avoid.shape and not set(spec.colours) & set(avoid.colours) \
                and spec.background != avoid.background:
            return spec
    raise RuntimeError("no other specification found")


def draw_shape(model: DiffusionModel, use: Use | None, judge: Judge, reference: Spec, seed: int = 0, steps: int = 30,
               guidance: float = GUIDANCE, count: int = PICTURES) -> Drawn:
    """Draw a shape attribute in ``count`` other looks. Fidelity S, leak = A against its own reference, P: look and background."""
    specs = [_other(seed, i, reference) for i in range(count)]
    token = use.attribute.token if use else "object"
    prompts = tuple(with_articles(f"a photo of a {appearance_phrase(s)} {token} on a {s.background} background") for s in specs)
    images = _draw(model, Mix(model, shape=use), prompts, seed, steps, guidance)
    right = np.mean([check(im, s, ("background", "colours")).passed() for im, s in zip(images, specs, strict=True)])
    return Drawn(images, prompts, Scores(shape=judge.shape(images).mean, prompt=float(right),
                                         leak=judge.appearance(images).mean))


def draw_appearance(model: DiffusionModel, use: Use | None, judge: Judge, reference: Spec, seed: int = 0, steps: int = 30,
                    guidance: float = GUIDANCE, count: int = PICTURES) -> Drawn:
    """Draw an appearance attribute on ``count`` other shapes. Fidelity A, leak = S, P: shape and background."""
    specs = [_other(seed + 50, i, reference) for i in range(count)]
    specs = [replace(s, background=_behind(i + seed, reference)) for i, s in enumerate(specs)]
    token = use.attribute.token if use else "plain"
    prompts = tuple(with_articles(f"a {s.shape} with {token} appearance on a {s.background} background") for s in specs)
    images = _draw(model, Mix(model, appearance=use), prompts, seed, steps, guidance)
    right = np.mean([check(im, s, ("background", "shape")).passed() for im, s in zip(images, specs, strict=True)])
    return Drawn(images, prompts, Scores(appearance=judge.appearance(images).mean, prompt=float(right),
                                         leak=judge.shape(images).mean))


def draw_mix(model: DiffusionModel, shape: Use | None, appearance: Use | None, shape_judge: Judge, appearance_judge: Judge,
             reference: Spec, seed: int = 0, steps: int = 30, guidance: float = GUIDANCE, count: int = PICTURES,
             middle: str = "shape") -> Drawn:
    """Draw both attributes on ``count`` backgrounds; ``reference`` is the appearance's. P: share of right backgrounds."""
    backgrounds = [_behind(i + seed, reference) for i in range(count)]
    first = shape.attribute.token if shape else "object"
    second = appearance.attribute.token if appearance else "plain"
    prompts = tuple(with_articles(f"a {first} with {second} appearance on a {b} background") for b in backgrounds)
    images = _draw(model, Mix(model, shape, appearance, middle), prompts, seed, steps, guidance)
    right = np.mean([check(im, replace(reference, background=b), ("background",)).passed()
                     for im, b in zip(images, backgrounds, strict=True)])
    return Drawn(images, prompts, Scores(shape_judge.shape(images).mean, appearance_judge.appearance(images).mean, float(right)))


def _behind(i: int, reference: Spec) -> str:
    """The ``i``-th background colour that stands apart from the reference's own colours and is not its background."""
    names = [c for c in colours.distinct_from(reference.colours) if c != reference.background]
    return names[i % len(names)]
