"""Captions of the pocket world: many forms, most of which leave something out, so that each part can be
prompted alone."""

import numpy as np

from ...words import with_articles
from . import colours, icons, patterns, shapes
from .world import Spec

# {app}: appearance as an adjective phrase, {shape}: the noun, {bg}: the background's colour
FULL = (
    "a photo of a {app} {shape} on a {bg} background",
    "a {app} {shape} on a {bg} background",
    "a {shape} with {app} appearance on a {bg} background",
    "a {shape} shape with {app} appearance on a {bg} background",
    "a drawing of a {app} {shape} on a {bg} background",
)
PARTIAL = (
    "a {app} {shape}",
    "a {shape} shape with {app} appearance",
    "a {shape} on a {bg} background",
    "a {shape} shape on a {bg} background",
    "an object with {app} appearance on a {bg} background",
    "a {app} object on a {bg} background",
    "an object with {app} appearance",
    "a photo of a {shape}",
    "a {shape}",
    "a {shape} shape",
    "an object on a {bg} background",
    "a {bg} background",
)
SHADOW = " with a shadow"
FULL_SHARE = 0.6


def appearance_phrase(spec: Spec, drop: str = "") -> str:
    """``red and white striped``; ``drop`` leaves out ``"colours"``, ``"second"`` (colour) or
    ``"pattern"``."""
    names = () if drop == "colours" else spec.colours[:1] if drop == "second" else spec.colours
    pattern = "" if drop == "pattern" else spec.pattern
    return " ".join(filter(None, (" and ".join(names), pattern)))


def background_phrase(spec: Spec) -> str:
    """``green``, or ``textured green``."""
    return f"textured {spec.background}" if spec.rough else spec.background


def _filled(form: str, spec: Spec, drop: str = "") -> str:
    text = form.format(app=appearance_phrase(spec, drop), shape=spec.shape, bg=background_phrase(spec))
    return with_articles(text + SHADOW if spec.shadow else text)


def full_caption(spec: Spec) -> str:
    """The caption that names everything, the form used for checks."""
    return _filled(FULL[0], spec)


def short_caption(spec: Spec) -> str:
    """The caption that names the object's parts and leaves out the background."""
    return _filled(PARTIAL[0], spec)


def caption(spec: Spec, rng: np.random.Generator, full_share: float = FULL_SHARE) -> str:
    """Draw one caption for ``spec``, with the chance ``full_share`` in a form that names every part."""
    form = str(rng.choice(FULL if rng.random() < full_share else PARTIAL))
    chance = rng.random()
    drop = "colours" if chance < 0.05 else "second" if chance < 0.10 else "pattern" if chance < 0.20 else ""
    if spec.pattern == "solid":
        drop = "pattern" if rng.random() < 0.5 else ""
    return _filled(form, spec, drop)


def vocabulary() -> list[str]:
    """Every word a caption can hold, held-out names excluded."""
    words = {w for form in (*FULL, *PARTIAL, SHADOW) for w in form.split() if "{" not in w}
    return sorted(words | {"an", "and", "textured", patterns.UNNAMED} | set(colours.NAMES)
                  | set(patterns.KNOWN)
                  | set(shapes.KNOWN) | set(icons.names()))
