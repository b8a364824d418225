"""What one training step is drawn from: a view, a timestep, noise and a prompt for each row of its batch."""

from dataclasses import dataclass

import numpy as np
import torch

from ..model.schedule import NoiseSchedule
from .recipes import TIMESTEP_LAWS, Recipe
from .views import Views


@dataclass(frozen=True)
class Draw:
    """Rows of a batch: ``index`` of the view (b,), ``prompts``, timesteps ``t`` (b,), noised latents ``x``
    (b, 4, h, w).

    ``target`` (b, 4, h, w) is what the UNet should answer. The prompts ``alone`` name nothing of the picture
    but the token.
    """

    index: torch.Tensor
    prompts: list[str]
    alone: list[str]
    t: torch.Tensor
    x: torch.Tensor
    target: torch.Tensor

    def pick(self, rows: torch.Tensor) -> "Draw":
        """The rows (n,) of a larger draw."""
        prompts = ([texts[i] for i in rows.tolist()] for texts in (self.prompts, self.alone))
        return Draw(self.index[rows], *prompts, self.t[rows], self.x[rows], self.target[rows])


@dataclass(frozen=True)
class Draws:
    """Draws from the ``views`` of a recipe.

    ``plain`` stands for the token where the model is to keep what it knew, ``subject`` for the rest of a
    picture that no view names.
    """

    views: Views
    recipe: Recipe
    schedule: NoiseSchedule
    token: str
    plain: str
    subject: str

    def __call__(self, rng: np.random.Generator, count: int) -> Draw:
        """``count`` rows."""
        recipe, device = self.recipe, self.views.latents.device
        picks = rng.integers(0, self.views.own, count)
        # half of the draws keep what the model knew
        if recipe.prior:
            picks = np.where(
                rng.random(count) < 0.5, self.views.own + rng.integers(0, recipe.prior, count), picks
            )
        index = torch.from_numpy(picks).to(device)
        # one draw from each slice: less variance
        u = (np.arange(count) + rng.random(count)) / count
        t = self.schedule.num_train_timesteps * u ** TIMESTEP_LAWS[recipe.timesteps]
        t = torch.from_numpy(t.astype(np.int64)).to(device)
        z = self.views.latents[index]
        noise = torch.from_numpy(rng.standard_normal(z.shape, dtype=np.float32)).to(device)
        alpha = self.schedule.alphas_cumprod().to(device)[t].view(-1, 1, 1, 1)
        target = noise if self.schedule.prediction_type == "epsilon" else alpha.sqrt() * noise - (
            1 - alpha).sqrt() * z
        return Draw(
            index, *self._prompts(rng, picks), t, alpha.sqrt() * z + (1 - alpha).sqrt() * noise, target
        )

    def _prompts(self, rng: np.random.Generator, picks: np.ndarray) -> tuple[list[str], list[str]]:
        recipe, views = self.recipe, self.views
        forms, whole, alone = rng.integers(0, len(recipe.templates), len(picks)), [], []
        for i, form in zip(picks.tolist(), forms, strict=True):
            own = i < views.own
            whole.append(
                recipe.prompt(form, self.token, views.rest[i] or self.subject, views.behind[i])
                if own
                else recipe.prompt(0, self.plain, "", "")
            )
            alone.append(recipe.prompt(form, self.token, "", "") if own else whole[-1])
        return whole, alone


def pool_rows(count: int, batch_size: int, step: int, seed: int) -> torch.Tensor:
    """Which of a pool of ``count`` draws a step takes, (batch_size,): one from each slice of the schedule, as
    a fresh batch has.

    The pool is one large draw, so the draws of a slice stand together. All are taken once before any is taken
    again, each time beside others.
    """
    size = count // batch_size
    again, place = divmod(step, size)
    orders = np.random.default_rng((seed, 14, again)).permuted(
        np.tile(np.arange(size), (batch_size, 1)), axis=1
    )
    return torch.from_numpy(np.arange(batch_size) * size + orders[:, place])
