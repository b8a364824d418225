"""What a world gives to the rooms below it: they look it up here, so that nothing below a world imports one.

A world is a module of ``worlds`` with a ``WORLD``. A new one needs no line anywhere else.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ESCDiffError, lookup

if TYPE_CHECKING:
    from torch import nn

    from .learning.bank import Words
    from .learning.compose import ViewSource
    from .learning.train_filters import Example


@dataclass(frozen=True)
class Tower:
    """A vision tower, (b, 3, ``size``, ``size``) to (b, m), and the mean and deviation that its pixels are
    brought to."""

    network: "nn.Module"
    size: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True)
class World:
    """A world's model and what belongs to it. What takes time to import or to read is a function."""

    name: str                                                     # that users call its model by
    checkpoint: Path
    guidance: float                                               # the scale that its model draws best with
    filters: Path                                                 # pre-trained on its model
    tower_file: Path
    read_tower: Callable[[], Tower]
    view_sources: Callable[[], Mapping[str, "ViewSource"]]        # by the name that recipes know them by
    words: Callable[[], "Words"]                                  # what views of its model's own are made of
    # count, seed, pixels a side: pictures to train filters on
    examples: Callable[[int, int, int], list["Example"]]
    # what each kind is learned with where nobody says
    recipes: Mapping[str, str]


@cache
def worlds() -> Mapping[str, World]:
    """Every world by its name."""
    package = f"{__package__}.worlds"
    found = [importlib.import_module(f"{package}.{m.name}").WORLD
             for m in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    return {world.name: world for world in found}


def find_world(name: str) -> World:
    """The world of that name. Raises ESCDiffError for one that does not exist."""
    return lookup(worlds(), name, "world")


def world_of(source: str) -> World | None:
    """The world whose own model was read from the file ``source``."""
    return next((w for w in worlds().values() if str(w.checkpoint) == source), None)


def named_model(name: str) -> Path | None:
    """The checkpoint that goes by ``name``. Raises ESCDiffError if the file is not there."""
    world = worlds().get(name)
    if world is None:
        return None
    if not world.checkpoint.exists():
        raise ESCDiffError(
            f"the {name} model is not at {world.checkpoint}; install the pack again, it brings the "
            "file along, or ‹another model›"
        )
    return world.checkpoint
