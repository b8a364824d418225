"""The references that come with the pack: held-out shapes and patterns that the pocket model never saw. No
judge is needed."""

from dataclasses import replace

import numpy as np

from ..worlds.pocket import patterns, shapes
from ..worlds.pocket.world import Spec, draw_spec


def shape_references(count: int = len(shapes.HELD_OUT)) -> list[Spec]:
    """The first ``count`` held-out shapes, each in a known look, always the same."""
    looks = [p for p in patterns.KNOWN if p != "solid"]
    return [_centred(draw_spec(np.random.default_rng((101, i)), shape=name, pattern=looks[i % len(looks)]))
            for i, name in enumerate(list(shapes.HELD_OUT)[:count])]


def appearance_references(count: int = len(patterns.HELD_OUT)) -> list[Spec]:
    """``count`` pictures with the held-out patterns in turn, each on a known roomy shape, always the same.

    There are but four patterns: the fifth picture has the first one's, in other colours on another shape.
    """
    carriers = ("circle", "heart", "square", "hexagon", "house", "oval")
    names = list(patterns.HELD_OUT)
    return [
        _centred(
            draw_spec(np.random.default_rng((202, i)), shape=carriers[i % len(carriers)],
                      pattern=names[i % len(names)])) for i in range(count)
    ]


def _centred(spec: Spec) -> Spec:
    return replace(spec, radius=48.0, centre=(64.0, 64.0))
