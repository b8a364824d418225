"""Whether a model still draws what it drew: how far what was learned moves its answers to prompts that do not
name it."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from ..unet.halves import decode, encode
from .precision import autocast

if TYPE_CHECKING:
    from .tune import Tuner

ROWS = 4                    # timesteps that are looked at, at once: without a way back that takes little
FIRST, LAST = 0.5, 0.8      # of the schedule: noise enough that a picture is still all the prompt's
FAR = 0.65                  # what a person is told of: a ruined model has 0.7 (benchmarks/widths/results.md)


@torch.no_grad()
def drift_of(tuner: "Tuner") -> float | None:
    """How far the model's idea of a picture has moved: the root of the mean square change of the x0 that it
    predicts, as a share of that x0's own. 0 is no change, 1 one as large as the picture itself.

    From pure noise, under the recipe's prompts with the plain word in the token's place, with the weights as
    the attribute keeps them. None for a run that also trains what its attribute does not keep.
    """
    model, recipe = tuner.model, tuner.recipe
    if recipe.joint or tuner.trained.slots:
        return None
    rows = (ROWS, *tuner.views.latents.shape[1:])
    noise = np.random.default_rng((tuner.seed, 15)).standard_normal(rows, dtype=np.float32)
    prompts = [recipe.prompt(i, tuner.names.plain, "", "") for i in range(ROWS)]
    t = (torch.linspace(FIRST, LAST, ROWS) * model.schedule.num_train_timesteps).long().to(model.device)
    alphas = model.schedule.alphas_cumprod().to(model.device)[t].view(-1, 1, 1, 1)
    signal, sigma = alphas.sqrt(), (1 - alphas).sqrt()
    x = sigma * torch.from_numpy(noise).to(model.device)
    with tuner.optimizer.averaged(), autocast(model.device, tuner.precision):
        answers = [
            decode(unet, encode(unet, x, t, texts, grad=False), texts).float()
            for unet, texts in ((model.unet, tuner.texts.plain_states(prompts, [])),
                                (tuner.unet, tuner.texts.nothing_learned(prompts, [])))
        ]
    before, after = (
        (x - sigma * answer) / signal if model.schedule.prediction_type == "epsilon" else
        signal * x - sigma * answer for answer in answers
    )
    return float((after - before).square().mean() / before.square().mean()) ** 0.5
