"""What a run draws while it learns: with its own UNet, so that nothing is built beside it and no weight is
copied."""

import copy

import numpy as np
import torch

from ..model.conditioning import Conditioning, joined, predict
from ..model.sample import USUAL, Drawing, draw
from .precision import autocast


@torch.no_grad()
def draw_so_far(tuner, prompt: str, how: Drawing = USUAL) -> np.ndarray:
    """Draw ``prompt``, which names the token, with what a Tuner's run has learned by now: float32 (1, h, w,
    3), 0 to 1.

    The average of the weights draws, as it does in the attribute. A recipe that learns more than it keeps
    (``joint``, ``stages``, two LoRAs) draws with all of it here. Raises ESCDiffError where model.sample.draw
    does.
    """
    model, token, known = tuner.model, tuner.names.token, {}
    texts = copy.copy(tuner.texts)
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
        own = states(timestep)[2 - len(given):]         # without the empty one where nothing is guided
        return predict(tuner.unet, x, timestep, own.to(x.device, x.dtype))

    with tuner.optimizer.averaged(), autocast(model.device, tuner.precision):
        vectors = tuner.vectors()
        first = states(torch.tensor(model.schedule.num_train_timesteps - 1))
        return draw(model, first[1:], first[:1], how, unet_call)
