"""The reference as the loss sees it: augmented views, encoded once, with the mask as weights and words for
the rest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import ESCDiffError, lookup
from ..model.autoencoder import image_to_latents
from ..model.diffusion import DiffusionModel
from ..model.sample import Drawing, sample
from ..reference import Reference
from ..registry import worlds
from .bank import bank_of
from .compose import ViewSource, unchanged
from .own_views import VIEW_SOURCES
from .precision import autocast
from .recipes import Recipe

PRIOR_STEPS = 20     # of sampling, for the pictures of prior preservation


@dataclass(frozen=True)
class Views:
    """The reference as the loss sees it: ``latents`` (v, 4, h, w), ``weights`` (v, 1, h, w) of mean 1, words
    per view.

    The first ``own`` show the reference. The others are what the model itself draws for the plain word, which
    it is to keep (prior preservation, Ruiz et al. 2023).
    """

    latents: torch.Tensor
    weights: torch.Tensor
    rest: tuple[str, ...]
    behind: tuple[str, ...]
    own: int


def view_sources() -> dict[str, ViewSource]:
    """Every way to draw views by the name that recipes know it by: the plain one, those of the model's own
    pictures, and those of the worlds."""
    return {"none": ViewSource(unchanged)} | VIEW_SOURCES | {
        k: s for w in worlds().values() for k, s in w.view_sources().items()
    }


def loss_weights(masks: np.ndarray, latents: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """How much each latent cell counts, (v, 1, h, w) of mean 1, by the subject's ``masks`` (v, H, W)."""
    inside = F.interpolate(torch.from_numpy(masks)[:, None].to(latents), size=latents.shape[2:], mode="area")
    weights = inside + recipe.background_weight * (1 - inside)
    return weights / weights.mean((2, 3), keepdim=True)


def prepare_views(model: DiffusionModel, references: Sequence[Reference], recipe: Recipe, seed: int,
                  describe: str = "", plain: str = "",
                  drawing: Callable[[int, int], None] | None = None, banks: Path | None = None,
                  precision: str = "auto") -> Views:
    """Draw the recipe's views of the references, and its pictures of the ``plain`` word, and encode them
    once.

    ``drawing(done, total)`` is called after every view that was drawn or encoded, and every step of sampling,
    and may raise to cancel. ``banks``: a folder where what models draw of their own is kept. ``precision``:
    see precision.autocast; in bf16 the pocket's latents are off by 0.4 % of their spread, in half the time.
    Raises ESCDiffError for references of several sizes, and without an outline where the views show it.
    """
    sizes = {r.image.shape[:2] for r in references}
    if len(sizes) != 1:
        raise ESCDiffError(
            f"{len(references)} references of {len(sizes)} different sizes were given; give one "
            "picture, or several of one aspect ratio"
        )
    source = lookup(view_sources(), recipe.augmentation, "augmentation")
    if source.needs_outline and any(r.mask is None for r in references):
        raise ESCDiffError(
            "there is no outline to learn, because no subject stands on a plain background; give a "
            "mask that is white on the subject, or take a -paper recipe, which learns from the whole "
            "picture"
        )
    rng = np.random.default_rng((seed, 11))
    count = max(recipe.views, len(references)) if recipe.augmentation != "none" else len(references)
    drawn, total = [], 2 * count + PRIOR_STEPS * bool(recipe.prior)
    tell = drawing or (lambda done, total: None)
    with_bank = {"bank": bank_of(model, banks, tell)} if source.needs_bank else {}
    masks = [np.ones(r.image.shape[:2], np.float32) if r.mask is None else r.mask for r in references]
    drawers = [source.of(r.image, mask, **with_bank) for r, mask in zip(references, masks, strict=True)]
    for i in range(count):
        drawn.append(drawers[i % len(drawers)](rng))
        tell(i + 1, total)
    images = np.stack([v.image for v in drawn])
    with autocast(model.device, precision):
        latents = image_to_latents(model, images, alone=True,
                                   progress=lambda done: tell(count + done, total))
    weights = loss_weights(np.stack([v.mask for v in drawn]), latents, recipe)
    words = [(v.rest, v.behind) if v.rest or v.behind else ("", describe) for v in drawn]
    if recipe.prior:
        own = sample(model, [recipe.prompt(0, plain, "", "")] * recipe.prior,
                     how=Drawing(PRIOR_STEPS, seed=seed, size=images.shape[1:3]),
                     progress=lambda done, steps: tell(2 * count + PRIOR_STEPS * done // steps, total))
        with autocast(model.device, precision):
            kept = image_to_latents(model, own, alone=True)
        latents, weights = torch.cat([latents, kept]), torch.cat([weights, torch.ones_like(kept[:, :1])])
        words += [("", "")] * recipe.prior
    return Views(latents.contiguous(), weights, tuple(w[0] for w in words), tuple(w[1] for w in words), count)
