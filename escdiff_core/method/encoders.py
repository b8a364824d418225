"""Which reference encoder and which filter go with a model: the pocket brings its own, others only what the user gives."""

from pathlib import Path

from ..errors import ESCDiffError
from ..model.load import POCKET_PATH, DiffusionModel
from .features import ReferenceEncoder, load_encoder
from .filters import AttributeFilter, base_of, load_filter
from .recipes import Recipe

POCKET_FILTERS = POCKET_PATH.with_name("pocket_filters.safetensors")


def choose_encoder(choice: str, model: DiffusionModel) -> ReferenceEncoder | None:
    """``none``, a path to ViT-B-32 weights, or ``auto``: the pocket's tower for the pocket model, otherwise none."""
    if choice == "none" or (choice == "auto" and model.source != str(POCKET_PATH)):
        return None
    return load_encoder("pocket" if choice == "auto" else choice, model.device)


def filter_file(path: Path | None, recipe: Recipe, base: str) -> Path | None:
    """The file of the filter that a recipe learns with on the model of fingerprint ``base``: the one at ``path``, else the
    pocket's pre-trained one for the pocket model. None: the recipe has no filter (scale 0), or one that trains along.
    """
    if not recipe.filter_scale:
        return None
    if path is None and (not POCKET_FILTERS.exists() or base_of(POCKET_FILTERS) != base):
        return None
    return path or POCKET_FILTERS


def choose_filter(path: Path | None, recipe: Recipe, model: DiffusionModel,
                  encoder: ReferenceEncoder | None) -> AttributeFilter | None:
    """The filter at ``path``; without one, the pocket's pre-trained filter for the pocket model; otherwise None (trains along).

    A recipe without a filter (scale 0) takes none, whatever is given.
    """
    file = filter_file(path, recipe, model.fingerprint)
    if file is None:
        return None
    network = load_filter(file, recipe.kind, model.fingerprint)
    if network.from_clip is not None and encoder is None:
        if path is None:
            return None
        raise ESCDiffError(f"{path} was trained with an OpenCLIP encoder; give the same one ‹the encoder›")
    return network.to(model.device).eval().requires_grad_(False)
