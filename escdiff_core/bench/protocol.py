"""What is drawn with an attribute, and how it is scored (METHODS: S, A, P, H and leak): the same for demo and
benchmarks.

References are held-out shapes and patterns that the pocket model never saw, or anyone's own pictures. A shape
attribute is asked for in four named looks, an appearance attribute on four named shapes, a mix on four
backgrounds; every prompt names a background. The shapes run from those least like the reference's to those
most like it: S = 0 is the mean over all of them, and four at random would stand above or below it, whoever
draws them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..errors import ESCDiffError
from ..metrics.comparison import other_shapes
from ..metrics.scores import Judge, attribute_scores, harmonic_mean, mix_scores, prompt_share
from ..mixing.mix import Mix
from ..mixing.plan import Use
from ..model.diffusion import DiffusionModel
from ..pictures import to_bytes
from ..reference import Reference, load_reference
from ..words import with_articles
from ..worlds.pocket import colours, shapes
from ..worlds.pocket.captions import appearance_phrase
from ..worlds.pocket.config import GUIDANCE
from ..worlds.pocket.views import nearest_names
from ..worlds.pocket.world import SIZE, Spec, draw_spec, render
from .references import appearance_references, shape_references  # noqa: F401  (part of the protocol)

PICTURES = 4      # per attribute or mix and seed
TRIES = 200       # choices of shapes to take the best balanced of
# of all that follows, of the judge and of the views: figures of another one are not compared
VERSION = 4


def as_reference(spec: Spec, size: int = SIZE) -> Reference:
    """The picture of ``spec``, ``size`` pixels a side, with its exact mask."""
    picture = render(spec, size)
    return Reference.from_arrays(picture.image, picture.mask, size, f"the picture of a {spec.shape}")


@dataclass(frozen=True)
class Subject:
    """A reference to learn from: its judge, the words for it, and what a prompt must avoid to be about
    something else.

    ``class_word`` and ``describe`` are what a user would say of the picture (see tune.Tuner); ``words``,
    ``colours`` and ``background`` are the shape, pattern and colours that it has itself, as far as they have
    names.
    """

    name: str
    reference: Reference
    judge: Judge
    class_word: str
    describe: str
    words: tuple[str, ...]
    colours: tuple[str, ...]
    background: str

    @classmethod
    def of_spec(cls, kind: str, spec: Spec, size: int = SIZE) -> "Subject":
        """The picture that ``spec`` draws, to learn its ``kind`` from; everything else of it is put into
        words."""
        behind = f"on a {spec.background} background"
        look = f"with {appearance_phrase(spec)} appearance "
        return cls(spec.shape if kind == "shape" else spec.pattern, as_reference(spec, size),
                   Judge.of_spec(spec), "" if kind == "shape" else spec.shape,
                   with_articles(look + behind if kind == "shape" else behind), (spec.shape, spec.pattern),
                   spec.colours, spec.background)

    @classmethod
    def of_picture(cls, path: Path, mask: str | Path, native_size: int) -> "Subject":
        """Anyone's own picture. Raises ESCDiffError as loading it does, and when its subject cannot be
        found."""
        reference = load_reference(path, mask, native_size)
        whole = (
            reference.mask if reference.mask is not None else np.ones(reference.image.shape[:2], np.float32)
        )
        return cls(path.stem, reference, Judge.of_picture(reference.image, reference.mask), "", "", (),
                   nearest_names(reference.image, whole), (*nearest_names(reference.image, 1 - whole), "")[0])


@dataclass(frozen=True)
class Scores:
    """Means over pictures, 0 to 1; None where a part was not asked for."""

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


def _draw(model: DiffusionModel, uses: Mapping[str, Use | None], shown: Mapping[str, str],
          subjects: Mapping[str, Subject], prompts: Sequence[str], seed: int, steps: int, guidance: float,
          denoise: float, overlap: str = "divide") -> np.ndarray:
    """One picture of each prompt; what a kind's subject is ``shown`` as, and ``denoise``, are in
    contenders.Contender."""
    start, style = (next((subjects[kind].reference for kind, how in shown.items() if how == what), None)
                    for what in ("start", "style"))
    size = next((r.image.shape[:2] for r in (start, style) if r is not None), None)
    mix = Mix(model, uses.get("shape"), uses.get("appearance"), style=style and _fitted(style, size),
              overlap=overlap)
    return mix.draw(prompts, steps=steps, guidance_scale=guidance, seed=1000 * seed, size=size,
                    denoise=denoise if start else 1, start=start.image if start else None)


def _fitted(reference: Reference, size: tuple[int, int]) -> Reference:
    """The reference without its mask, cut and scaled to ``size``, (height, width)."""
    if reference.image.shape[:2] == size:
        return reference
    picture = ImageOps.fit(Image.fromarray(to_bytes(reference.image)), size[::-1], Image.Resampling.BICUBIC)
    return Reference(np.asarray(picture, np.float32) / 255, None)


def _other(seed: int, i: int, avoid: Subject, **fixed) -> Spec:
    """A known specification that shares neither shape, pattern nor colours with the reference ``avoid``."""
    for attempt in range(1000):
        spec = draw_spec(np.random.default_rng((303, seed, i, attempt)), **fixed)
        if not {spec.pattern, spec.shape} & set(avoid.words) and not set(spec.colours) & set(avoid.colours) \
                and spec.background != avoid.background:
            return spec
    raise ESCDiffError(
        f"the reference {avoid.name!r} has nearly every colour that there is a word for; give a "
        "plainer picture"
    )


def draw_shape(model: DiffusionModel, use: Use | None, subject: Subject, seed: int = 0, steps: int = 30,
               guidance: float = GUIDANCE, count: int = PICTURES, how: str = "words",
               denoise: float = 1.0) -> Drawn:
    """Draw a shape attribute in ``count`` other looks. Fidelity S, leak = A against its own reference, P:
    look and background.

    Without ``use``, the subject is shown ``how`` and with which ``denoise`` (see contenders.Contender).
    """
    specs = [_other(seed, i, subject) for i in range(count)]
    token = use.attribute.token if use else "object"
    prompts = tuple(
        with_articles(f"a photo of a {appearance_phrase(s)} {token} on a {s.background} background")
        for s in specs
    )
    images = _draw(model, {"shape": use}, {} if use else {"shape": how}, {"shape": subject}, prompts, seed,
                   steps, guidance, denoise)
    scored = attribute_scores("shape", images, subject.judge)
    return Drawn(
        images, prompts,
        Scores(shape=scored.fidelity, prompt=prompt_share(images, specs, ("background", "colours")),
               leak=scored.leak))


def draw_appearance(model: DiffusionModel, use: Use | None, subject: Subject, seed: int = 0, steps: int = 30,
                    guidance: float = GUIDANCE, count: int = PICTURES, how: str = "words",
                    denoise: float = 1.0) -> Drawn:
    """Draw an appearance attribute on ``count`` other shapes. Fidelity A, leak = S, P: shape and background.

    Without ``use``, the subject is shown ``how`` and with which ``denoise`` (see contenders.Contender).
    """
    shown = enumerate(_spread_shapes(subject, seed, count))
    specs = [Spec(name, "solid", ("red",), _behind(i + seed, subject)) for i, name in shown]
    look = _look(use, how)
    prompts = tuple(with_articles(f"a {s.shape}{look} on a {s.background} background") for s in specs)
    images = _draw(model, {"appearance": use}, {} if use else {"appearance": how}, {"appearance": subject},
                   prompts, seed, steps, guidance, denoise)
    scored = attribute_scores("appearance", images, subject.judge)
    return Drawn(
        images, prompts,
        Scores(appearance=scored.fidelity, prompt=prompt_share(images, specs, ("background", "shape")),
               leak=scored.leak))


def _spread_shapes(subject: Subject, seed: int, count: int) -> list[str]:
    """``count`` known shapes other than the reference's, whose exact drawings are as like it as those of all
    shapes together.

    By their likeness in equal groups, one of each group, and of ``TRIES`` such choices the one nearest to S =
    0 (a balanced sample by rejection, Fuller 2009): what leak then shows is the model's, not the choice's.
    """
    likeness = {spec.shape: subject.judge.iou(reading) for spec, reading in other_shapes()
                if spec.shape in shapes.KNOWN and spec.shape not in subject.words}
    groups = np.array_split(sorted(likeness, key=likeness.get), count)
    rng = np.random.default_rng((304, seed))
    choices = [[str(rng.choice(group)) for group in groups] for _ in range(TRIES)]
    return min(
        choices, key=lambda names: abs(np.mean([likeness[n] for n in names]) - subject.judge.scale.iou_floor)
    )


DRAW = {"shape": draw_shape, "appearance": draw_appearance}


def draw_mix(model: DiffusionModel, shape: Use | None, appearance: Use | None, shape_of: Subject,
             appearance_of: Subject, seed: int = 0, steps: int = 30, guidance: float = GUIDANCE,
             count: int = PICTURES, shown: Mapping[str, str] | None = None,
             denoise: Mapping[str, float] | None = None, overlap: str = "divide") -> Drawn:
    """Draw both attributes on ``count`` backgrounds. P: share of right backgrounds.

    Kinds without a use are ``shown``, by words alone if nothing is said; a drawing starts from one picture,
    the shape's first, with that kind's ``denoise``. ``overlap`` is of choices.OVERLAPS.
    """
    uses, subjects = (
        {"shape": shape, "appearance": appearance},
        {"shape": shape_of, "appearance": appearance_of},
    )
    shown = {kind: (shown or {}).get(kind, "words") for kind, use in uses.items() if use is None}
    backgrounds = [_behind(i + seed, appearance_of) for i in range(count)]
    first = shape.attribute.token if shape else "object"
    look = _look(appearance, shown.get("appearance", ""))
    prompts = tuple(with_articles(f"a {first}{look} on a {b} background") for b in backgrounds)
    started = next((kind for kind, how in shown.items() if how == "start"), "")
    images = _draw(
        model, uses, shown, subjects, prompts, seed, steps, guidance, (denoise or {}).get(started, 1), overlap
    )
    right = prompt_share(images, [Spec("circle", "solid", ("red",), b) for b in backgrounds], ("background",))
    scored = mix_scores(images, shape_of.judge, appearance_of.judge, right)
    return Drawn(images, prompts, Scores(scored.shape, scored.appearance, scored.prompt))


def _look(use: Use | None, how: str) -> str:
    """How a prompt names the appearance: by its token, by a plain word, or not at all where a picture shows
    it."""
    if use is None and how != "words":
        return ""
    return f" with {use.attribute.token if use else 'plain'} appearance"


def _behind(i: int, subject: Subject) -> str:
    """The ``i``-th background colour that stands apart from the reference's own colours and is not its
    background."""
    other = [c for c in colours.NAMES if c not in (*subject.colours, subject.background)]
    names = [c for c in colours.distinct_from(subject.colours) if c in other] or other
    return names[i % len(names)]
