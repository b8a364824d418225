"""Which reference encoder and which filter go with a model: a world brings its own, others have what the user
gives."""

from pathlib import Path

from ..errors import ESCDiffError
from ..model.diffusion import DiffusionModel
from ..registry import world_of, worlds
from .features import ReferenceEncoder, ReferenceFeatures, load_encoder
from .filters import AttributeFilter, base_of, load_filter
from .recipes import Recipe


def choose_encoder(choice: str, model: DiffusionModel) -> ReferenceEncoder | None:
    """``none``, a path to ViT-B-32 weights, or ``auto``: its own tower for a world's model, otherwise
    none."""
    world = world_of(model.source)
    if choice == "none" or (choice == "auto" and world is None):
        return None
    return load_encoder(world.name if choice == "auto" else choice, model.device)


def filter_file(path: Path | None, recipe: Recipe, base: str) -> Path | None:
    """The file of the filter that a recipe learns with on the model of fingerprint ``base``: the one at
    ``path``, else the pre-trained one that a world has for its model. None: the recipe has no filter (scale
    0), or one that trains along.
    """
    if not recipe.filter_scale:
        return None
    if path is not None:
        return path
    return next(
        (w.filters for w in worlds().values() if w.filters.exists() and base_of(w.filters) == base), None
    )


def choose_filter(path: Path | None, recipe: Recipe, model: DiffusionModel, encoder: ReferenceEncoder | None,
                  features: ReferenceFeatures | None = None) -> AttributeFilter | None:
    """The filter at ``path``; without one, a world's pre-trained filter for its model; otherwise None (trains
    along).

    ``features`` that were read before say themselves if there was an encoder. A recipe without a filter
    (scale 0) takes none, whatever is given.
    """
    file = filter_file(path, recipe, model.fingerprint)
    if file is None:
        return None
    network = load_filter(file, recipe.kind, model.fingerprint)
    seen = encoder if features is None else features.clip
    if network.from_clip is not None and seen is None:
        if path is None:
            return None
        raise ESCDiffError(f"{path} was trained with an OpenCLIP encoder; give the same one ‹the encoder›")
    return network.to(model.device).eval().requires_grad_(False)
