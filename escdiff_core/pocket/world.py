"""The pocket world: one object of a known shape, pattern and colours on a background, drawn exactly from a seed."""

from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image, ImageDraw

from ..errors import lookup
from . import colours, patterns, shapes

SIZE = 128            # pixels a side
SUPERSAMPLE = 4       # silhouettes are filled at this multiple and averaged down, so that edges are anti-aliased
RESERVED_EVERY = 12   # one combination in so many is never drawn in training: the held-back prompts


@dataclass(frozen=True)
class Spec:
    """Everything that decides a picture. Lengths are pixels of a 128-pixel picture, angles degrees."""

    shape: str
    pattern: str
    colours: tuple[str, ...]       # one name for ``solid``, two for the rest: (ground, figure)
    background: str
    centre: tuple[float, float] = (64.0, 64.0)
    radius: float = 42.0           # half of the longer side of the shape's bounding box
    rotation: float = 0.0
    period: float = 24.0
    pattern_angle: float = 45.0
    phase: tuple[float, float] = (0.0, 0.0)
    shading: tuple[float, float] = (0.0, 0.0)     # relative brightness across the object, right and down
    grade: tuple[float, float] = (0.0, 0.0)       # the same across the background

    def to_json(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Picture:
    """``image`` float32 (h, w, 3) 0 to 1, ``mask`` float32 (h, w) coverage 0 to 1, and the ``spec`` that drew them."""

    image: np.ndarray
    mask: np.ndarray
    spec: Spec


def silhouette(spec: Spec, size: int = SIZE) -> np.ndarray:
    """Draw the exact coverage mask of the object, float32 (size, size)."""
    outline = lookup(shapes.ALL, spec.shape, "shape")
    scale = SUPERSAMPLE * size / SIZE
    a = np.radians(spec.rotation)
    turn = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    canvas = Image.new("L", (size * SUPERSAMPLE, size * SUPERSAMPLE), 0)
    draw = ImageDraw.Draw(canvas)
    for rings, value in ((outline.solids, 255), (outline.holes, 0)):
        for ring in rings:
            points = (ring @ turn * spec.radius + spec.centre) * scale
            draw.polygon([(float(x), float(y)) for x, y in points], fill=value)
    return np.asarray(canvas.reduce(SUPERSAMPLE), dtype=np.float32) / 255.0


def _ramp(size: int, slope: tuple[float, float]) -> np.ndarray:
    """Relative brightness 1 + slope·position over the picture, float32 (size, size, 1)."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    return (1 + slope[0] * axis[None, :] + slope[1] * axis[:, None])[..., None]


def surface(spec: Spec, size: int = SIZE) -> np.ndarray:
    """Draw the object's pattern over the whole picture, without shading, float32 (size, size, 3)."""
    field = lookup(patterns.ALL, spec.pattern, "pattern")
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (SIZE / size)
    x, y = axis[None, :] - spec.centre[0] - spec.phase[0], axis[:, None] - spec.centre[1] - spec.phase[1]
    a = np.radians(spec.pattern_angle)
    u, v = np.cos(a) * x + np.sin(a) * y, -np.sin(a) * x + np.cos(a) * y
    share = field(u.astype(np.float32), v.astype(np.float32), spec.period).astype(np.float32)[..., None]
    ground, figure = colours.rgb(spec.colours[0]), colours.rgb(spec.colours[-1])
    return ground * (1 - share) + figure * share


def render(spec: Spec, size: int = SIZE) -> Picture:
    """Draw ``spec``. Raises ESCDiffError for an unknown shape or pattern."""
    mask = silhouette(spec, size)
    back = colours.rgb(spec.background) * _ramp(size, spec.grade)
    front = surface(spec, size) * _ramp(size, spec.shading)
    image = back * (1 - mask[..., None]) + front * mask[..., None]
    return Picture(np.clip(image, 0, 1).astype(np.float32), mask, spec)


def is_reserved(spec: Spec) -> bool:
    """Is this combination of shape, pattern, colours and background kept out of training?"""
    words = (spec.shape, spec.pattern, *spec.colours, spec.background)
    code = 0
    for character in " ".join(words):
        code = (code * 131 + ord(character)) % 1_000_003
    return code % RESERVED_EVERY == 0


def draw_spec(rng: np.random.Generator, shape: str | None = None, pattern: str | None = None) -> Spec:
    """Draw a random specification over the known shapes and patterns; ``shape`` or ``pattern`` may be fixed to any."""
    shape = shape or str(rng.choice(list(shapes.KNOWN)))
    pattern = pattern or str(rng.choice(list(patterns.KNOWN)))
    names = [str(rng.choice(colours.NAMES))]
    if pattern != "solid":
        names.append(str(rng.choice(colours.distinct_from(tuple(names)))))
    background = str(rng.choice(colours.distinct_from(tuple(names))))
    radius = float(rng.uniform(38, 54))
    slack = max(0.0, 60 - radius)
    phase = rng.uniform(-4, 4, 2) if pattern in ("ringed", "rayed", "halved", "gradient") else rng.uniform(-14, 14, 2)
    return Spec(
        shape=shape, pattern=pattern, colours=tuple(names), background=background,
        centre=tuple(float(c) for c in 64 + rng.uniform(-slack, slack, 2) * 0.8), radius=radius,
        rotation=float(rng.uniform(-14, 14)), period=float(rng.uniform(20, 28)),
        pattern_angle=float(rng.uniform(0, 180)), phase=tuple(float(p) for p in phase),
        shading=tuple(float(s) for s in rng.uniform(-0.14, 0.14, 2)),
        grade=tuple(float(g) for g in rng.uniform(-0.1, 0.1, 2) * (rng.random() < 0.5)),
    )


def training_spec(seed: int, index: int) -> Spec:
    """The ``index``-th specification of the training stream ``seed``: known shapes and patterns, nothing reserved."""
    rng = np.random.default_rng((seed, index))
    while is_reserved(spec := draw_spec(rng)):
        pass
    return spec


def reserved_spec(seed: int, index: int) -> Spec:
    """The ``index``-th held-back specification: known words in a combination that training never saw."""
    rng = np.random.default_rng((seed, index, 1))
    while not is_reserved(spec := draw_spec(rng)):
        pass
    return spec
