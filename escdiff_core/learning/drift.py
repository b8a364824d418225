"""Whether a model still draws what it drew: how far what was learned moves its answers to prompts that do not
name it."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from ..unet.halves import decode, encode
from .precision import autocast

if TYPE_CHECKING:
    from .tune import Tuner

ROWS = 4                    # timesteps that are looked at
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
    generator = np.random.default_rng((tuner.seed, 15))
    shape = tuner.views.latents.shape[1:]
    prompts = [recipe.prompt(i, tuner.names.plain, "", "") for i in range(ROWS)]
    times = torch.linspace(FIRST, LAST, ROWS) * model.schedule.num_train_timesteps
    alphas = model.schedule.alphas_cumprod().to(model.device)
    changed, predicted = 0.0, 0.0
    with tuner.optimizer.averaged(), autocast(model.device, tuner.precision):
        for prompt, t in zip(prompts, times.long().to(model.device).split(1), strict=True):
            noise = torch.from_numpy(generator.standard_normal((1, *shape), dtype=np.float32))
            signal, sigma = alphas[t].sqrt(), (1 - alphas[t]).sqrt()
            x = sigma * noise.to(model.device)
            answers = (
                decode(unet, encode(unet, x, t, texts, grad=False), texts).float() for unet, texts in (
                    (model.unet, tuner.texts.plain_states([prompt], [])),
                    (tuner.unet, tuner.texts.nothing_learned([prompt], [])))
            )
            before, after = (
                (x - sigma * answer) / signal if model.schedule.prediction_type == "epsilon" else
                signal * x - sigma * answer for answer in answers
            )
            changed += float((after - before).square().mean())
            predicted += float(before.square().mean())
    return (changed / predicted) ** 0.5
