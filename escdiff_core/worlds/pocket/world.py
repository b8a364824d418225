"""The pocket world: one object of a known shape, pattern and colours on a background, drawn exactly from a
seed."""

from dataclasses import asdict, dataclass, replace

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from ...errors import lookup
from . import colours, icons, patterns, shapes
from .grain import Grain

SIZE = 128            # pixels a side
# silhouettes are filled at this multiple and averaged down, so that edges are anti-aliased
SUPERSAMPLE = 4
RESERVED_EVERY = 12   # one combination in so many is never drawn in training: the held-back prompts
PERIODS = (7.0, 30.0)  # pixels; drawn evenly in proportion
ICON_SUPERSAMPLE = 2
PLAIN = 0.25          # share of pictures whose colours are the middles of their names' regions
ICON_SHARE, UNNAMED_SHARE, SHADOW_SHARE, ROUGH_SHARE = 0.4, 0.1, 0.08, 0.08      # of training pictures


@dataclass(frozen=True)
class Spec:
    """Everything that decides a picture. Lengths are pixels of a 128-pixel picture, angles degrees."""

    shape: str
    pattern: str
    # names: one for ``solid``, three where the surface has three, else (ground, figure)
    colours: tuple[str, ...]
    background: str
    centre: tuple[float, float] = (64.0, 64.0)
    radius: float = 42.0           # half of the longer side of the shape's bounding box
    rotation: float = 0.0
    period: float = 24.0
    pattern_angle: float = 45.0
    phase: tuple[float, float] = (0.0, 0.0)
    shading: tuple[float, float] = (0.0, 0.0)     # relative brightness across the object, right and down
    grade: tuple[float, float] = (0.0, 0.0)       # the same across the background
    tint: int = 0                  # which colours of the names' regions; 0: their middles
    grain: int = 0                 # the chance in the surface; 0: its plainest form
    roundness: float = 0.0         # relative brightness between the lit and the dark side of a round body
    shadow: float = 0.0            # how much darker the background is below the object
    rough: float = 0.0             # relative brightness of the background's own texture

    def to_json(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Picture:
    """``image`` float32 (h, w, 3) 0 to 1, ``mask`` float32 (h, w) coverage 0 to 1, and the ``spec`` that drew
    them."""

    image: np.ndarray
    mask: np.ndarray
    spec: Spec


def silhouette(spec: Spec, size: int = SIZE) -> np.ndarray:
    """Draw the exact coverage mask of the object, float32 (size, size)."""
    if spec.shape not in shapes.ALL and spec.shape in icons.NAMES:
        return _stencilled(spec, size)
    outline = lookup(shapes.ALL, spec.shape, "shape")
    scale = SUPERSAMPLE * size / SIZE
    turn = _turn(spec.rotation)
    canvas = Image.new("L", (size * SUPERSAMPLE, size * SUPERSAMPLE), 0)
    draw = ImageDraw.Draw(canvas)
    for rings, value in ((outline.solids, 255), (outline.holes, 0)):
        for ring in rings:
            points = (ring @ turn * spec.radius + spec.centre) * scale
            draw.polygon([(float(x), float(y)) for x, y in points], fill=value)
    return np.asarray(canvas.reduce(SUPERSAMPLE), dtype=np.float32) / 255.0


def _turn(degrees: float) -> np.ndarray:
    a = np.radians(degrees)
    return np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])


def _stencilled(spec: Spec, size: int) -> np.ndarray:
    """The coverage mask of an icon, which is a picture and not a polygon."""
    stencil = icons.stencil(spec.shape)
    side = size * ICON_SUPERSAMPLE
    # from the canvas to the stencil
    back = _turn(spec.rotation).T * (icons.SIDE / 2 / spec.radius) * (SIZE / side)
    offset = -np.array(spec.centre) * (side / SIZE) @ back + icons.SIDE / 2
    matrix = (back[0, 0], back[1, 0], offset[0], back[0, 1], back[1, 1], offset[1])
    drawn = Image.fromarray(stencil).transform((side, side), Image.AFFINE, matrix, Image.BILINEAR)
    return np.asarray(drawn.reduce(ICON_SUPERSAMPLE), dtype=np.float32) / 255.0


def _ramp(size: int, slope: tuple[float, float]) -> np.ndarray:
    """Relative brightness 1 + slope·position over the picture, float32 (size, size, 1)."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    return (1 + slope[0] * axis[None, :] + slope[1] * axis[:, None])[..., None]


def _light(mask: np.ndarray, spec: Spec) -> np.ndarray:
    """Brightness of a round body lit from the upper left, around 1, (h, w, 1)."""
    if not spec.roundness:
        return np.ones((*mask.shape, 1), np.float32)
    height = ndimage.gaussian_filter(mask, 0.22 * spec.radius * len(mask) / SIZE)
    slope = ndimage.sobel(height, 0) + ndimage.sobel(height, 1)
    return (1 + spec.roundness * slope / max(float(np.abs(slope).max()), 1e-6))[..., None].astype(np.float32)


def ground(spec: Spec, size: int = SIZE) -> np.ndarray:
    """Draw the background alone, without the object's shadow, float32 (size, size, 3)."""
    back = colours.paint(spec.background, spec.tint, 9) * _ramp(size, spec.grade)
    if not spec.rough:
        return back
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (SIZE / size)
    x, y = np.meshgrid(axis, axis)
    grain = Grain(spec.grain + 9)
    period = grain.vary(6, 30, 71)
    u, v = 0.8 * x + 0.6 * y, 0.8 * y - 0.6 * x
    texture = grain.noise(u, v, period,
                          12) + 0.6 * grain.noise(x, y, 0.45 * period, 13) + 0.4 * grain.noise(v, u, 3, 14)
    return np.clip(back * (1 + spec.rough * 0.7 * texture)[..., None], 0, 1)


def surface(spec: Spec, size: int = SIZE) -> np.ndarray:
    """Draw the object's pattern over the whole picture, without shading, float32 (size, size, 3)."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (SIZE / size)
    x, y = axis[None, :] - spec.centre[0] - spec.phase[0], axis[:, None] - spec.centre[1] - spec.phase[1]
    a = np.radians(spec.pattern_angle)
    u, v = np.cos(a) * x + np.sin(a) * y, -np.sin(a) * x + np.cos(a) * y
    paints = [colours.paint(name, spec.tint, place) for place, name in enumerate(spec.colours)]
    drawn = np.broadcast_to(paints[0], (size, size, 3))
    shares = patterns.shares(
        spec.pattern, u.astype(np.float32), v.astype(np.float32), spec.period, Grain(spec.grain)
    )
    for place, share in enumerate(shares, 1):
        drawn = drawn + share[..., None] * (paints[min(place, len(paints) - 1)] - drawn)
    return drawn.astype(np.float32)


def render(spec: Spec, size: int = SIZE) -> Picture:
    """Draw ``spec``. Raises ESCDiffError for an unknown shape or pattern."""
    mask = silhouette(spec, size)
    back = ground(spec, size)
    if spec.shadow:
        below = ndimage.shift(mask, 0.06 * size, order=1)
        back = back * (1 - spec.shadow * ndimage.gaussian_filter(below, 0.035 * size))[..., None]
    front = surface(spec, size) * _ramp(size, spec.shading) * _light(mask, spec)
    image = back * (1 - mask[..., None]) + front * mask[..., None]
    return Picture(np.clip(image, 0, 1).astype(np.float32), mask, spec)


def is_reserved(spec: Spec) -> bool:
    """Is this combination of shape, pattern, colours and background kept out of training?"""
    words = (spec.shape, spec.pattern, *spec.colours, spec.background)
    code = 0
    for character in " ".join(words):
        code = (code * 131 + ord(character)) % 1_000_003
    return code % RESERVED_EVERY == 0


def draw_names(rng: np.random.Generator, pattern: str) -> tuple[str, ...]:
    """Colours for a surface that can be told apart."""
    count = 1 if pattern == "solid" else 3 if pattern in patterns.THREE_COLOURED else 2
    names = [str(rng.choice(colours.NAMES))]
    while len(names) < count:
        left = colours.distinct_from(tuple(names))
        names = [*names, str(rng.choice(left))] if left else [str(rng.choice(colours.NAMES))]
    return tuple(names)


def draw_tint(rng: np.random.Generator) -> int:
    """Which colours of the names' regions a picture takes; now and then 0, their middles."""
    return 0 if rng.random() < PLAIN else int(rng.integers(1, 2**31))


def draw_spec(rng: np.random.Generator, shape: str | None = None, pattern: str | None = None) -> Spec:
    """Draw a random specification over the known shapes and patterns; ``shape`` or ``pattern`` may be fixed
    to any."""
    shape = shape or str(rng.choice(list(shapes.KNOWN)))
    pattern = pattern or str(rng.choice(list(patterns.KNOWN)))
    names = draw_names(rng, pattern)
    while not (free := colours.distinct_from(names)):
        names = draw_names(rng, pattern)
    background = str(rng.choice(free))
    tint = draw_tint(rng)
    while tint and not colours.apart(
        [colours.paint(n, tint, k) for k, n in [*enumerate(names), (9, background)]]
    ):
        tint = int(rng.integers(1, 2**31))
    radius = float(rng.uniform(38, 54))
    slack = max(0.0, 60 - radius)
    period = float(np.exp(rng.uniform(*np.log(PERIODS))))
    phase = rng.uniform(-4, 4, 2) if pattern in patterns.CENTRED else rng.uniform(-14, 14, 2)
    return Spec(
        shape=shape, pattern=pattern, colours=names, background=background,
        centre=tuple(float(c) for c in 64 + rng.uniform(-slack, slack, 2) * 0.8), radius=radius,
        rotation=float(rng.uniform(-14, 14)), period=period,
        pattern_angle=float(rng.uniform(0, 180)), phase=tuple(float(p) for p in phase),
        shading=tuple(float(s) for s in rng.uniform(-0.14, 0.14, 2)),
        grade=tuple(float(g) for g in rng.uniform(-0.1, 0.1, 2) * (rng.random() < 0.5)),
        tint=tint, grain=int(rng.integers(1, 2**31)),
        roundness=float(rng.uniform(0.08, 0.25) * (rng.random() < 0.25)),
    )


def training_spec(seed: int, index: int, icons: tuple[str, ...] = ()) -> Spec:
    """The ``index``-th specification of the training stream ``seed``: known shapes and patterns, nothing
    reserved.

    ``icons`` are further silhouettes for ``ICON_SHARE`` of the pictures. A few objects have a surface without
    a name, throw a shadow, or stand on a textured ground.
    """
    rng = np.random.default_rng((seed, index))
    shape = str(rng.choice(icons)) if icons and rng.random() < ICON_SHARE else None
    pattern = patterns.UNNAMED if rng.random() < UNNAMED_SHARE else None
    while is_reserved(spec := draw_spec(rng, shape, pattern)):
        pass
    chances = rng.random(2) < (SHADOW_SHARE, ROUGH_SHARE)
    return replace(spec, shadow=float(rng.uniform(0.25, 0.6) * chances[0]),
                   rough=float(rng.uniform(0.08, 0.3) * chances[1]))


def reserved_spec(seed: int, index: int) -> Spec:
    """The ``index``-th held-back specification: known words in a combination that training never saw."""
    rng = np.random.default_rng((seed, index, 1))
    while not is_reserved(spec := draw_spec(rng)):
        pass
    return spec
