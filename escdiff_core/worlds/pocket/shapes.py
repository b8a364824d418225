"""The silhouettes of the pocket world: polygons in a unit frame (x right, y down), filled even-odd by Pillow.

A shape is a list of rings of vertices, shape (n, 2); the first rings add, a ring wound in ``HOLES`` style
cuts. ``KNOWN`` shapes are drawn in training; ``HELD_OUT`` shapes only ever appear as a reference picture.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

TAU = 2 * np.pi


@dataclass(frozen=True)
class Outline:
    """Closed rings in the unit frame: ``solids`` are filled one over another, then ``holes`` are cut out."""

    solids: tuple[np.ndarray, ...]
    holes: tuple[np.ndarray, ...] = ()

    def normalised(self) -> "Outline":
        """Centre the bounding box on the origin and scale its longer half-side to 1."""
        points = np.concatenate(self.solids)
        low, high = points.min(0), points.max(0)
        centre, half = (low + high) / 2, (high - low).max() / 2
        return Outline(*(tuple(((r - centre) / half).astype(np.float64) for r in rings)
                         for rings in (self.solids, self.holes)))


def _poly(*xy: float) -> np.ndarray:
    return np.asarray(xy, dtype=np.float64).reshape(-1, 2)


def _arc(cx: float, cy: float, rx: float, ry: float | None = None, start: float = 0.0, stop: float = 360.0,
         n: int = 48) -> np.ndarray:
    """Points on an ellipse from ``start`` to ``stop`` degrees, clockwise on screen from the right."""
    a = np.radians(np.linspace(start, stop, n))
    return np.stack([cx + rx * np.cos(a), cy + (rx if ry is None else ry) * np.sin(a)], 1)


def _regular(n: int, phase: float = -90.0) -> np.ndarray:
    return _arc(0, 0, 1, start=phase, stop=phase + 360, n=n + 1)[:-1]


def _radial(f: Callable[[np.ndarray], np.ndarray], n: int = 128) -> np.ndarray:
    a = np.linspace(0, TAU, n, endpoint=False)
    return np.stack([f(a) * np.sin(a), -f(a) * np.cos(a)], 1)


def _mirror(half: np.ndarray) -> np.ndarray:
    """Close a right-hand outline, listed from top to bottom, with its mirror image."""
    return np.concatenate([half, (half * [-1, 1])[::-1]])


def _star(points: int = 5, inner: float = 0.42) -> np.ndarray:
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return _regular(2 * points) * radius[:, None]


def _heart() -> np.ndarray:
    a = np.linspace(0, TAU, 96, endpoint=False)
    x = 16 * np.sin(a) ** 3
    return np.stack([x, -(13 * np.cos(a) - 5 * np.cos(2 * a) - 2 * np.cos(3 * a) - np.cos(4 * a))], 1)


def _crescent() -> np.ndarray:
    outer = _arc(0, 0, 1, start=50, stop=310, n=64)
    inner = _arc(0.42, 0, 0.8, start=287, stop=73, n=48)
    return np.concatenate([outer, inner])


def _gear() -> np.ndarray:
    return _radial(lambda a: 0.84 + 0.16 * np.tanh(6 * np.sin(8 * a)), 256)


def _drop() -> np.ndarray:
    return np.concatenate([_poly(0, -1.3), _arc(0, 0.2, 0.75, start=-35, stop=215, n=48)])


def _leaf() -> np.ndarray:
    t = np.linspace(0, 1, 40)
    return _mirror(np.stack([0.5 * np.sin(np.pi * t) ** 0.9, 2 * t - 1], 1))


_KNOWN: dict[str, Outline] = {
    "circle": Outline((_arc(0, 0, 1, n=96),)), "square": Outline(
        (_poly(-1, -1, 1, -1, 1, 1, -1, 1),)), "triangle": Outline((_regular(3),)), "star": Outline(
            (_star(),)), "heart": Outline((_heart(),)), "crescent": Outline(
                (_crescent(),)), "diamond": Outline((_poly(0, -1, 0.72, 0, 0, 1, -0.72, 0),)),
    "hexagon": Outline((_regular(6, 0),)), "cross": Outline(
        (_poly(-.33, -1, .33, -1, .33, -.33, 1, -.33, 1, .33, .33, .33, .33, 1, -.33, 1, -.33, .33, -1, .33,
               -1, -.33, -.33, -.33),)), "arrow": Outline(
                   (_poly(-1, -.3, .1, -.3, .1, -.8, 1, 0, .1, .8, .1, .3, -1, .3),)), "ring": Outline(
                       (_arc(0, 0, 1, n=96),), (_arc(0, 0, .48, n=64),)),
    "oval": Outline((_arc(0, 0, 1, .55, n=96),)), "semicircle": Outline(
        (_arc(0, 0, 1, start=180, stop=360, n=64),)), "drop": Outline((_drop(),)), "tree": Outline(
            (_poly(0, -1.2, .6, -.5, .3, -.5, .85, .15, .4, .15, 1, .8, -1, .8, -.4, .15, -.85, .15, -.3, -.5,
                   -.6, -.5), _poly(-.2, .75, .2, .75, .2, 1.25, -.2, 1.25))), "house": Outline(
                       (_poly(0, -1, 1.1, -.1, .8, -.1, .8, 1, -.8, 1, -.8, -.1, -1.1,
                              -.1),)), "cloud": Outline(
                                  (_arc(-.75, .15, .45), _arc(-.2, -.25, .6), _arc(.5, -.05, .52),
                                   _arc(.95, .2, .38), _poly(-.8, .1, 1, .1, 1, .58, -.75, .6))),
    "flower": Outline((_radial(lambda a: 0.72 + 0.28 * np.cos(6 * a)),)), "bolt": Outline(
        (_poly(.25, -1.2, -.65, .2, -.05, .2, -.35, 1.2, .7, -.3, .1, -.3, .65, -1.2),)), "mushroom": Outline(
            (_arc(0, -.1, 1, .85, start=180, stop=360), _poly(-.3, -.15, .3, -.15, .4, .9, -.4, .9))),
    "fish": Outline((_arc(-.2, 0, .85, .52), _poly(.4, 0, 1.15, -.6, .95, 0, 1.15, .6))), "mug": Outline(
        (_poly(-.85, -.8, .55, -.8, .5, .8, -.8, .8), _arc(.62, -.05, .48, .5)),
        (_arc(.72, -.05, .2, .24),)), "bottle": Outline(
            (_mirror(_poly(.2, -1.2, .2, -.6, .5, -.15, .5, 1.2)),)), "leaf": Outline(
                (_leaf(),)), "gear": Outline((_gear(),), (_arc(0, 0, .32),)), "crown": Outline(
                    (_poly(-1, -.6, -.5, .1, 0, -.8, .5, .1, 1, -.6, .85, .8, -.85,
                           .8),)), "umbrella": Outline(
                               (_arc(0, 0, 1, .9, start=180,
                                     stop=360), _poly(-.09, -.1, .09, -.1, .09, .85, -.09, .85),
                                _poly(-.42, .62, -.25, .62, -.2, .85, .09, .85, .05, 1, -.3,
                                      1))), "hourglass": Outline((_poly(-.7, -1, .7, -1, .12, 0, .7, 1, -.7,
                                                                        1, -.12, 0),)),
}

_HELD_OUT: dict[str, Outline] = {
    "butterfly": Outline((_arc(-.55, -.4, .5, .55), _arc(.55, -.4, .5, .55), _arc(-.42, .5, .38, .42),
                          _arc(.42, .5, .38, .42), _arc(0, 0, .14, .75))), "cat": Outline(
                              (_arc(0, .15, .95, .8), _poly(-.92, -1, -.95, .1, -.2,
                                                            -.6), _poly(.92, -1, .95, .1, .2, -.6))),
    "vase": Outline((_mirror(
        _poly(.42, -1.1, .42, -.98, .24, -.75, .24, -.5, .62, -.1, .7, .25, .58, .65, .34, .95, .42,
              1.1)),)), "anchor": Outline(
                  (_arc(0, -.85, .26), _poly(-.13, -.7, .13, -.7, .13, .8, -.13,
                                             .8), _poly(-.55, -.45, .55, -.45, .55, -.2, -.55, -.2),
                   np.concatenate([_arc(0, .1, 1, start=10, stop=170),
                                   _arc(0, .0, .7, start=165, stop=15)])), (_arc(0, -.85, .1),)),
    "boot": Outline((_poly(-.6, -1, .2, -1, .2, .1, .95, .4, 1, .85, -.6, .85),)), "rabbit": Outline(
        (_arc(0, .5, .7, .62), _arc(-.32, -.5, .2, .62), _arc(.32, -.5, .2, .62))), "hammer": Outline(
            (_poly(-.85, -1, .6, -1, .95, -.72, .6, -.45, -.85,
                   -.45), _poly(-.3, -.5, .08, -.5, .08, 1.1, -.3, 1.1))), "bone": Outline(
                       (_arc(-.78, -.28, .32), _arc(-.78, .28, .32), _arc(.78, -.28,
                                                                          .32), _arc(.78, .28, .32),
                        _poly(-.85, -.2, .85, -.2, .85, .2, -.85, .2))), "whale": Outline(
                            (_arc(-.2, .2, .85, .6),
                             _poly(.3, .3, .95, -.2, .6, -.75, 1.05, -.6, 1.4, -.85, 1.2, -.1, .5, .65))),
    "rocket": Outline(
        (_mirror(_poly(0, -1.25, .2, -.95, .34, -.5, .34, .45, .7, .8, .7, 1.15, .3, .9, .2, .9, .12,
                       1.2)),)),
    "key": Outline(
        (_arc(0, -.7, .48), _poly(-.14, -.3, .14, -.3, .14, 1.2, -.14, 1.2),
         _poly(.1, .5, .5, .5, .5, .72, .1, .72), _poly(.1, .92, .42, .92, .42, 1.14, .1, 1.14)),
        (_arc(0, -.72, .2),)), "penguin": Outline(
            (_arc(0, .2, .62, .9), _arc(0, -.75, .42, .4), _poly(-.5, -.3, -1, .45, -.82, .5, -.5,
                                                                 .2), _poly(.5, -.3, 1, .45, .82, .5, .5, .2),
             _poly(-.5, .95, -.05, .95, -.05, 1.15, -.7,
                   1.15), _poly(.05, .95, .5, .95, .7, 1.15, .05, 1.15))), "pear": Outline(
                       (_arc(0, .42, .72, .7), _arc(0, -.4, .38,
                                                    .5), _poly(-.38, -.3, .38, -.3, .66, .2, -.66, .2),
                        _poly(-.05, -1.2, .09, -1.2, .05, -.8, -.05, -.8))), "sailboat": Outline(
                            (_poly(-1, .55, 1, .55, .65, 1.05, -.7,
                                   1.05), _poly(-.08, -1.1, .02, -1.1, .02, .5, -.08,
                                                .5), _poly(.1, -1, .85, .38, .1,
                                                           .38), _poly(-.16, -.75, -.16, .38, -.75, .38))),
    "teapot": Outline(
        (_arc(0, .2, .72, .6), _poly(-.6, 0, -1.25, -.42, -1.05, -.52, -.5, -.22), _arc(
            0, -.45, .14), _poly(-.34, -.42, .34, -.42, .5, -.2, -.5, -.2), _arc(.72, .12, .42, .42)),
        (_arc(.86, .1, .2, .24),)),
}

KNOWN: dict[str, Outline] = {name: outline.normalised() for name, outline in _KNOWN.items()}
HELD_OUT: dict[str, Outline] = {name: outline.normalised() for name, outline in _HELD_OUT.items()}
ALL: dict[str, Outline] = {**KNOWN, **HELD_OUT}
