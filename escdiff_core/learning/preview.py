"""What a run draws while it learns: with its own UNet, so that none is built beside it."""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..model.conditioning import Conditioning, joined, predict
from ..model.sample import USUAL, Drawing, draw
from .precision import autocast

if TYPE_CHECKING:
    from .tune import Tuner


@torch.no_grad()
def draw_so_far(tuner: "Tuner", prompt: str, how: Drawing = USUAL,
                progress: Callable[[int, int], None] | None = None) -> np.ndarray:
    """Draw ``prompt``, which names the token, with what a run has learned by now: float32 (1, h, w, 3), 0 to
    1.

    As the attribute does: the average of the weights draws, with the vectors that are kept. A recipe whose
    weights learn more than is kept (``joint``, two LoRAs) draws with all of them here. ``progress`` and
    errors: see model.sample.draw.
    """
    model, token, known = tuner.model, tuner.names.token, {}
    texts = copy.copy(tuner.texts)
    texts.known = dict(texts.known)                     # the run's own stays as it is
    # not by chance but as in a mix: the blocks that did not learn read an appearance's plain word
    texts.plain_share = float(tuner.recipe.kind == "appearance" and tuner.recipe.reach == "own")

    def states(timestep: torch.Tensor) -> Conditioning:
        """Of the empty prompt and of this one, (2, n, dim)."""
        stage = texts.stage(int(timestep))
        if stage not in known:
            own = texts(np.random.default_rng(0), [prompt], {token: vectors}, timestep.view(1), [prompt])
            known[stage] = joined([texts.nothing_learned([""], [token]), own])
        return known[stage]

    def unet_call(x: torch.Tensor, timestep: torch.Tensor, given: Conditioning) -> torch.Tensor:
        with autocast(model.device, tuner.precision):
            own = states(timestep)[2 - len(given):]     # without the empty one where nothing is guided
            return predict(tuner.unet, x, timestep, own.to(x.device, x.dtype))

    with tuner.optimizer.averaged():
        vectors = {tower: rows.to(model.device) for tower, rows in tuner.kept_vectors().items()}
        with autocast(model.device, tuner.precision):
            first = states(torch.tensor(model.schedule.num_train_timesteps - 1))
        return draw(model, first[1:], first[:1], how, unet_call, progress)
