"""What a run says of itself: what it trains and needs before it begins, how far it is, how fast it was."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..model.diffusion import DiffusionModel
from ..unet.blocks import find_preset
from ..unet.copy import tensors_of
from .recipes import Recipe

STATE_BYTES = 20  # of a trained number: weight, gradient, two moments and the average, all fp32


@dataclass(frozen=True)
class Progress:
    """What a callback is told after each step; ``draw(prompt, how, progress)`` is a preview of what has
    been learned so far (see preview.draw_so_far)."""

    step: int
    steps: int
    loss: float
    draw: Callable[..., np.ndarray] = field(repr=False)


@dataclass
class Report:
    """Figures of one run: seconds, steps per second, trained parameters, bytes of trained state, how many
    rows of a batch were computed at once and what that was expected to need, the losses, and how far the
    model's other answers have moved (see drift)."""

    seconds: float = 0.0
    steps_per_second: float = 0.0
    trained_parameters: int = 0
    trained_state_bytes: int = 0
    rows: int = 0
    checkpointing: bool = False
    needed_bytes: int = 0
    drift: float | None = None
    losses: list[float] = field(default_factory=list)


def trained_blocks(recipe: Recipe, names: Sequence[str]) -> tuple[str, ...]:
    """The blocks that ``recipe`` trains of a UNet with tensors of these ``names``."""
    return find_preset(recipe.preset).blocks("concept" if recipe.joint else recipe.kind, names)


def expected_state_bytes(model: DiffusionModel, recipe: Recipe) -> int:
    """What a run will keep of the weights it trains whole, before it begins; what other forms add beside them
    is small."""
    names = tensors_of(model.unet, trained_blocks(recipe, list(model.unet.state_dict())), recipe.scope)
    weights = model.unet.state_dict()
    return STATE_BYTES * sum(weights[n].numel() for n in names) if recipe.form == "full" else 0
