"""Learning inside the host: on a private copy, outside inference mode, with progress, preview, cancel and the cache."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import comfy.model_management
import folder_paths
import numpy as np
import torch
from PIL import Image

from ...escdiff_core import __version__
from ...escdiff_core.attribute import Attribute
from ...escdiff_core.attribute.cache import AttributeCache, cache_key
from ...escdiff_core.errors import ESCDiffError, is_out_of_memory, memory_as_a_sentence
from ...escdiff_core.method.encoders import POCKET_FILTERS, choose_filter
from ...escdiff_core.method.features import ReferenceEncoder, reference_features
from ...escdiff_core.method.features import ReferenceFeatures as Vectors
from ...escdiff_core.method.features import load_encoder as load_tower
from ...escdiff_core.method.mix import Mix
from ...escdiff_core.method.plan import Use
from ...escdiff_core.method.recipes import Recipe
from ...escdiff_core.method.tune import Tuner, expected_state_bytes
from ...escdiff_core.model.load import DiffusionModel
from ...escdiff_core.model.sample import image_to_latents
from ...escdiff_core.reference import Reference
from ..pictures import references
from .export import private_model
from .folders import POCKET, attribute_path, free_path
from .progress import make_room, reporter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Features:
    """What stage 1 hands on: the references, their feature vectors, and the encoder's name."""

    references: tuple[Reference, ...]
    vectors: Vectors
    timestep: int
    base: str            # fingerprint of the model that looked


@dataclass(frozen=True)
class Token:
    """What stage 2 hands on: the kind of attribute, the words it starts from, and the pre-trained filter's file if any."""

    kind: str
    features: Features
    class_word: str = ""
    filter_file: str = ""


def load_encoder(name: str) -> ReferenceEncoder:
    """The pocket's tower, or ViT-B/32 from the host's clip_vision folder."""
    source = POCKET if name == POCKET else folder_paths.get_full_path("clip_vision", name)
    if source is None:
        looked = ", ".join(folder_paths.get_folder_paths("clip_vision"))
        raise ESCDiffError(f"no encoder file {name!r} in {looked}; put OpenCLIP's ViT-B-32 weights there and press R")
    with torch.inference_mode(False):
        return load_tower(source, comfy.model_management.get_torch_device())


def copy_of(model, clip, vae) -> DiffusionModel:
    """The private copy to look and learn with, made of tensors that gradients may pass."""
    with torch.inference_mode(False), memory_as_a_sentence():
        return private_model(model, clip, vae)


def read_reference(copy: DiffusionModel, image, mask, encoder: ReferenceEncoder | None, timestep: int, seed: int) -> Features:
    """Stage 1: references and their features."""
    with torch.inference_mode(False), memory_as_a_sentence():
        found = references(image, mask, copy.native_size)
        latents = torch.cat([image_to_latents(copy, r.image[None]) for r in found])
        pictures = torch.from_numpy(np.stack([r.image for r in found]))
        vectors = reference_features(copy, latents, pictures, timestep, encoder, seed)
        return Features(tuple(found), vectors, timestep, copy.fingerprint)


def learn(copy: DiffusionModel, token: Token, recipe: Recipe, seed: int, describe: str = "", name: str = "",
          preview_every: int = 0, checkpointing: bool = False) -> tuple[Attribute, list[float]]:
    """Stage 3 on the private copy. Found in the cache when this version learned the same before, on any day.

    Returns the attribute and its losses (empty when it came from the cache). The host's model stays as it is. Raises
    ESCDiffError for features of another model.
    """
    if token.features.base != copy.fingerprint:
        raise ESCDiffError("the reference was read with another model than it shall be learned with; connect ESCDiff Reference "
                           "Features and ESCDiff Tune to the same model, clip and vae")
    with torch.inference_mode(False), torch.enable_grad():
        losses: list[float] = []

        def work() -> Attribute:
            file = Path(token.filter_file) if token.filter_file else None
            network = choose_filter(file, recipe, copy, token.features.vectors.clip)
            make_room(expected_state_bytes(copy, recipe) * 1.5)
            tuner = Tuner(copy, token.features.references, replace(recipe, feature_timestep=token.features.timestep), seed,
                          describe, token.class_word, network=network, token=name or None, checkpointing=checkpointing,
                          features=token.features.vectors, preparing=lambda _done, _total: _interrupted())
            report = reporter(recipe.steps, lambda: _preview(copy, tuner), preview_every)
            made = tuner.run(lambda p: report(p.step))
            losses.extend(tuner.report.losses)
            return made

        key = cache_key({"base": copy.fingerprint, "unet": _hash_of(copy.unet.state_dict()),
                         "text": _hash_of(copy.text_encoder.state_dict()),
                         "vae": _hash_of(copy.vae.state_dict()), "schedule": copy.schedule.config(),
                         "pack": __version__, "recipe": recipe.hash(), "seed": seed,
                         "references": [r.hash for r in token.features.references],
                         "features": _hash_of(vars(token.features.vectors)), "describe": describe, "name": name,
                         "class_word": token.class_word, "filter": _hash_of_file(token.filter_file or POCKET_FILTERS)})
        with memory_as_a_sentence():
            return cache().get_or_learn(key, work, _interrupted), losses


def cache() -> AttributeCache:
    """The cache of learned attributes, in the host's user folder."""
    return AttributeCache(Path(folder_paths.get_user_directory()) / "escdiff" / "cache")


def _interrupted() -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()


def _hash_of(tensors: Mapping[str, torch.Tensor | None]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        if tensor is not None:
            digest.update(tensor.detach().to("cpu", torch.float16).contiguous().numpy())
    return digest.hexdigest()


def _hash_of_file(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else ""


def _preview(copy: DiffusionModel, tuner: Tuner) -> Image.Image | None:
    """What the token draws at this moment, a few steps, with the user's random numbers left alone; None without room for it."""
    try:
        made = tuner.attribute()
        with torch.no_grad():
            drawn = Mix(copy, **{made.kind: Use(made)}).draw(f"a photo of a {made.token}", steps=8, seed=0)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        log.warning("ESCDiff: no memory for a preview; learning goes on")
        return None
    return Image.fromarray((drawn[0] * 255).round().astype(np.uint8))


def train_filters(model, clip, vae, folder: str, name: str, steps: int, seed: int, encoder: ReferenceEncoder | None) -> str:
    """Pre-train both filters on a folder of pictures; returns the file."""
    from ...escdiff_core.method.filters import base_of, save_filters
    from ...escdiff_core.method.recipes import DEFAULTS, find_recipe
    from ...escdiff_core.method.train_filters import examples_from_folder, look_at, train_filter

    if not folder.strip():
        raise ESCDiffError("no folder was given; needed: a folder of pictures on the server, hundreds are better than tens")
    attribute_path(name)            # a name that leads out is refused before anything is trained
    with torch.inference_mode(False), torch.enable_grad():
        copy = private_model(model, clip, vae)
        examples = examples_from_folder(Path(folder), copy.native_size)
        report = reporter(len(examples) + 2 * steps)
        rows = {kind: find_recipe(recipe) for kind, recipe in DEFAULTS.items()}
        seen = look_at(copy, examples, rows["shape"].feature_timestep, encoder, seed, lambda done, _n: report(done))
        starts = range(len(examples), len(examples) + 2 * steps, steps)
        made = {kind: train_filter(copy, seen, row, steps, seed=seed, progress=lambda done, _n, before=start: report(before + done))
                for start, (kind, row) in zip(starts, rows.items(), strict=True)}
    # Filters of this model are trained again in their place; an attribute, or filters of another model, are nobody's to replace
    target = free_path(name, lambda path: base_of(path) == copy.fingerprint)
    save_filters(made, target, copy.fingerprint, rows["shape"].filter_scale)
    return str(target)
