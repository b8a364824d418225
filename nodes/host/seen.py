"""What was learned, as a picture: the references as they were seen, and what each token draws on its own."""

import numpy as np
import torch

from ...escdiff_core.choices import USUAL_GUIDANCE
from ...escdiff_core.pictures import compose_sheet
from ...escdiff_core.worlds.pocket.config import GUIDANCE as POCKET_GUIDANCE
from ..pictures import from_pil, overlay
from .export import config_of
from .learning import Features
from .mixing import Mixed, conditioning
from .sampling import sample

STEPS = 12                  # enough to recognise, a second on a GPU
SMALL = 256                 # pixels; smaller pictures are shown twice as large
ALONE = {"shape": "a photo of a {}", "appearance": "a photo of an object with {} appearance"}
# the newest picture alone: a changed prompt need not draw it again
_last: dict[tuple, torch.Tensor] = {}


def learned_picture(mixed: Mixed, source, features: dict[str, Features]) -> torch.Tensor:
    """IMAGE (1, h, w, 3): for each attribute of ``mixed`` its reference, what does not count dimmed, and its
    token drawn.

    ``features``: what each kind was learned from. Raises ESCDiffError as export.config_of does.
    """
    key = (source.model.model, source.model.patches_uuid, *(_identity(u) for u in mixed.given))
    if key not in _last:
        _last.clear()
        _last[key] = _draw(mixed, source, features)
    return _last[key]


def empty_latent(source) -> dict:
    """One empty latent of the model's own size."""
    side = config_of(source.model, source.clip, source.vae).native_size // 8
    return {"samples": torch.zeros(1, 4, side, side)}


def _identity(use) -> tuple:
    """What tells this use from others."""
    made = use.attribute
    vectors = tuple(t.detach().float().cpu().numpy().tobytes() for t in made.embeddings.values())
    return made.kind, use.strength, made.recipe_hash, made.reference_hash, made.seed, vectors


def _draw(mixed: Mixed, source, features: dict[str, Features]) -> torch.Tensor:
    guidance = POCKET_GUIDANCE if hasattr(source.model.model, "escdiff_config") else USUAL_GUIDANCE
    nothing, rows = conditioning(mixed, source.clip, ""), []
    for use in mixed.given:
        kind, token = use.attribute.kind, use.attribute.token
        seen = [
            (overlay(r.image, r.mask), f"the {kind} is learned from this")
            for r in features[kind].references[:1]
        ]
        prompt = ALONE[kind].format(token)
        latent = sample(mixed.model, 0, STEPS, guidance, "dpmpp_2m", "normal",
                        conditioning(mixed, source.clip, prompt), nothing, empty_latent(source), 1.0)
        drawn = source.vae.decode(latent["samples"])[0].detach().float().cpu().numpy()
        rows.append(("", [*seen, (np.clip(drawn, 0, 1), prompt)]))
    return from_pil(compose_sheet(rows, zoom=2 if len(drawn) < SMALL else 1))
