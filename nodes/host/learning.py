"""Learning inside the host: on a private copy, outside inference mode, with progress, preview, cancel and the
cache."""

import logging
from collections.abc import Callable
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
from ...escdiff_core.learning.encoders import filter_file
from ...escdiff_core.learning.features import ReferenceEncoder
from ...escdiff_core.learning.features import load_encoder as load_tower
from ...escdiff_core.learning.learn import Snapshots
from ...escdiff_core.learning.learn import learn as core_learn
from ...escdiff_core.learning.recipes import Recipe
from ...escdiff_core.learning.report import expected_state_bytes
from ...escdiff_core.learning.snapshots import was_cut_short
from ...escdiff_core.learning.start import read_features
from ...escdiff_core.learning.views import view_sources
from ...escdiff_core.model.diffusion import DiffusionModel
from ...escdiff_core.model.sample import Drawing
from ...escdiff_core.reference import Reference
from ..pictures import references
from .digests import file_digest, picture_digest, source_digests
from .export import checkpoint_fingerprint, config_of, private_model
from .folders import POCKET, attribute_path, find_encoder, free_path
from .notes import tell
from .progress import make_room, reporter, room

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """The user's MODEL, CLIP and VAE: a private copy is made of them when something is learned, and not
    before."""

    model: object
    clip: object
    vae: object

    def copy(self) -> DiffusionModel:
        return private_model(self.model, self.clip, self.vae)


@dataclass(frozen=True)
class Features:
    """What stage 1 hands on: the references and how to look at them. The looking itself waits until something
    is learned."""

    references: tuple[Reference, ...]
    pictures: str                       # digest of what was given
    encoder: ReferenceEncoder | None
    base: str                           # fingerprint of the checkpoint that is to look
    # to look at, and the seed of its noise; None: the recipe's and the run's
    timestep: int | None = None
    seed: int | None = None

    def settled(self, recipe: Recipe, seed: int) -> "Features":
        """With everything said that was left to ``recipe`` and ``seed``."""
        return replace(self, timestep=recipe.feature_timestep if self.timestep is None else self.timestep,
                       seed=seed if self.seed is None else self.seed)


@dataclass(frozen=True)
class TokenStart:
    """What stage 2 hands on: the kind of attribute, the words it starts from, and the pre-trained filter's
    file if any."""

    kind: str
    features: Features
    class_word: str = ""
    filter_file: str = ""


def load_encoder(name: str) -> ReferenceEncoder:
    """The pocket's tower, or ViT-B/32 from the host's clip_vision folder."""
    source = POCKET if name == POCKET else find_encoder(name)
    with torch.inference_mode(False):
        return load_tower(source, comfy.model_management.get_torch_device())


def read_reference(source: Source, image, mask, encoder: ReferenceEncoder | None, timestep: int | None = None,
                   seed: int | None = None) -> Features:
    """Stage 1: the references, and what they shall be looked at with."""
    config = config_of(source.model, source.clip, source.vae)
    with torch.inference_mode(False), memory_as_a_sentence():
        found = references(image, mask, config.native_size)
        return Features(tuple(found), picture_digest(image, mask), encoder,
                        checkpoint_fingerprint(source.model), timestep, seed)


def learn(source: Source, token: TokenStart, recipe: Recipe, seed: int, describe: str = "", name: str = "",
          preview_every: int = 0, checkpointing: bool = False) -> tuple[Attribute, list[float]]:
    """Stage 3 on a private copy. Found in the cache when this version learned the same before, on any day.

    Returns the attribute and its losses (empty when it came from the cache). The host's model stays as it is.
    What was learned up to a cancel is kept, and the same again goes on from there. Raises ESCDiffError for
    features of another model.
    """
    if token.features.base != checkpoint_fingerprint(source.model):
        raise ESCDiffError(
            "the reference was read with another model than it shall be learned with; connect ESCDiff "
            "Reference Features and ESCDiff Tune to the same model, clip and vae"
        )
    looking, store, losses = token.features.settled(recipe, seed), cache(), []
    recipe, token = replace(recipe, feature_timestep=looking.timestep), replace(token, features=looking)
    key = key_of(source, token, recipe, seed, describe, name)

    def work() -> Attribute:
        copy = source.copy()
        features = read_features(copy, looking.references, recipe, looking.encoder,
                                 looking.seed) if recipe.filter_scale else None
        make_room(expected_state_bytes(copy, recipe) * 1.5)
        unfinished, done = store.unfinished(key), 0
        if view_sources()[recipe.augmentation].needs_bank:
            tell("first this checkpoint draws what the views are made of, once for all learnings on it")
        report = reporter(recipe.steps, lambda draw: _preview(draw, name or recipe.token), preview_every)

        def begin(tuner) -> None:
            if tuner.done:
                tell(f"going on from step {tuner.done}, where the same was stopped before")

        def step(progress) -> None:
            nonlocal done
            done = progress.step
            report(progress.step, progress.draw)

        try:
            made, figures = core_learn(copy, looking.references, recipe, seed,
                                       filters=Path(token.filter_file) if token.filter_file else None,
                                       describe=describe, class_word=token.class_word, token=name or None,
                                       checkpointing=checkpointing, features=features,
                                       preparing=lambda _done, _total: _interrupted(), on_begin=begin,
                                       on_step=step, room=room, banks=_user_folder() / "banks",
                                       snapshots=Snapshots(unfinished, every=0, resume=True, discard=True))
        except comfy.model_management.InterruptProcessingException:
            if was_cut_short(unfinished):
                tell(f"stopped after step {done} of {recipe.steps}; queue the same again to go on from there")
            raise
        losses.extend(figures.losses)
        return made

    with torch.inference_mode(False), torch.enable_grad(), memory_as_a_sentence():
        made = store.get_or_learn(key, work, _wait)
    if not losses:
        tell("found in the cache: nothing had to be learned")
    return made, losses


def key_of(
    source: Source, token: TokenStart, recipe: Recipe, seed: int, describe: str = "", name: str = ""
) -> str:
    """The key in the cache of what is learned from these: inputs alone, so that every machine has the
    same."""
    features = token.features
    file = filter_file(Path(token.filter_file) if token.filter_file else None, recipe, features.base)
    return cache_key({
        "pack": __version__, "source": source_digests(source.model, source.clip, source.vae),
        "pictures": features.pictures, "encoder": "" if features.encoder is None else features.encoder.digest,
        "looked": [features.timestep, features.seed], "recipe": recipe.hash(), "seed": seed,
        "words": [describe, name or recipe.token, token.class_word], "filter": file_digest(file)
    })


def cache() -> AttributeCache:
    """The cache of learned attributes, in the host's user folder."""
    return AttributeCache(_user_folder() / "cache")


def _user_folder() -> Path:
    """Where the pack keeps what it can make again."""
    return Path(folder_paths.get_user_directory()) / "escdiff"


def _interrupted() -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()


def _wait() -> None:
    """Called while another ComfyUI of the same user folder learns the same."""
    _interrupted()
    tell("another ComfyUI is learning the same; waiting for it")


def _preview(draw: Callable[..., np.ndarray], token: str) -> Image.Image | None:
    """What the token draws at this moment, a few steps, with the user's random numbers left alone; None
    without room for it."""
    try:
        drawn = draw(f"a photo of a {token}", Drawing(steps=8, seed=0), lambda *_: _interrupted())
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        log.warning("ESCDiff: no memory for a preview; learning goes on")
        return None
    return Image.fromarray((drawn[0] * 255).round().astype(np.uint8))


def train_filters(
    model, clip, vae, folder: str, name: str, steps: int, seed: int, encoder: ReferenceEncoder | None
) -> str:
    """Pre-train both filters on a folder of pictures; returns the file."""
    from ...escdiff_core.learning.filters import base_of, save_filters
    from ...escdiff_core.learning.recipes import DEFAULTS, find_recipe
    from ...escdiff_core.learning.train_filters import examples_from_folder, folder_of, look_at, train_filter

    if not str(folder_of(folder)).strip("."):
        raise ESCDiffError(
            "no folder was given; needed: a folder of pictures on the server, hundreds are better than tens"
        )
    attribute_path(name)            # a name that leads out is refused before anything is trained
    with torch.inference_mode(False), torch.enable_grad():
        copy = private_model(model, clip, vae, torch.float32)
        examples = examples_from_folder(folder_of(folder), copy.native_size)
        report = reporter(len(examples) + 2 * steps)
        rows = {kind: find_recipe(recipe) for kind, recipe in DEFAULTS.items()}
        seen = look_at(
            copy, examples, rows["shape"].feature_timestep, encoder, seed, lambda done, _n: report(done)
        )
        starts = range(len(examples), len(examples) + 2 * steps, steps)
        made = {
            kind: train_filter(copy, seen, row, steps, seed=seed,
                               progress=lambda done, _n, before=start: report(before + done))
            for start, (kind, row) in zip(starts, rows.items(), strict=True)
        }
    # Filters of this model are trained again in their place; an attribute, or filters of another model, are
    # nobody's to replace
    target = free_path(name, lambda path: base_of(path) == copy.fingerprint)
    save_filters(made, target, copy.fingerprint, rows["shape"].filter_scale)
    return str(target)
