"""What a model draws of its own: surfaces, grounds and outlines for views that look like its pictures, and
not like drawings."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from ..errors import ESCDiffError
from ..files import write_safetensors
from ..model.autoencoder import encoded_at_once
from ..model.diffusion import DiffusionModel
from ..model.sample import Drawing, sample
from ..reference.photograph import subject_of
from ..registry import world_of
from .compose import mirrored_outwards

log = logging.getLogger(__name__)
STEPS, AT_ONCE = 12, 8          # of sampling; pictures in a batch, fewer of large ones
KEPT = 8                        # files in a folder, of 31 MB at 512 pixels, 126 MB at 1024: the last used
LOOKED_AT = 64                  # numbers of each tensor: a LoRA changes them as it changes the others
METADATA_KEY, PICTURES = "escdiff.bank", "pictures"
Tell = Callable[[int, int], None]
_REMEMBERED: dict[str, "Bank"] = {}        # by what its pictures depend on


@dataclass(frozen=True)
class Words:
    """What is drawn: for each part of a view the words that say so in a caption, and the prompt.

    ``things`` stand on a plain ground, for their outline; ``surfaces`` and ``grounds`` fill the picture, or
    are carried on to fill it from where they are found.
    """

    things: Mapping[str, str]
    surfaces: Mapping[str, str]
    grounds: Mapping[str, str]

    def prompts(self) -> list[str]:
        """All of them, things first."""
        return [*self.things.values(), *self.surfaces.values(), *self.grounds.values()]


# any Stable Diffusion knows them; things whose outlines differ, surfaces of one material each
USUAL = Words(
    things={name: f"a photo of one {name}, isolated on a plain white background" for name in (
        "apple", "cup", "vase", "bottle", "teapot", "shoe", "chair", "pear", "leaf", "bell", "guitar", "duck",
        "mushroom", "cactus", "hammer", "hat")},
    surfaces={name: f"a close-up photo of {name} texture, filling the frame" for name in (
        "knitted wool", "red brick", "rusty metal", "white marble", "oak wood", "brown leather", "blue denim",
        "green moss", "gold", "blue and white porcelain", "tiger fur", "tartan fabric", "clear glass",
        "grey concrete", "pink silk", "black plastic")},
    grounds={f"on {name}": f"a photo of {scene}" for name, scene in {
        "a wooden table": "an empty wooden table top", "a sandy beach": "an empty sandy beach",
        "green grass": "a lawn of green grass", "a stone floor": "an empty stone floor",
        "a red carpet": "a plain red carpet", "a grey background": "a plain grey background",
        "a white background": "a plain white background", "a blue background": "a plain blue background",
    }.items()},
)


@dataclass(frozen=True)
class Bank:
    """``things``: (word, mask (h, w) bool); ``surfaces`` and ``grounds``: (words, picture (h, w, 3) uint8).
    Pictures are square, of the model's own size."""

    things: tuple[tuple[str, np.ndarray], ...]
    surfaces: tuple[tuple[str, np.ndarray], ...]
    grounds: tuple[tuple[str, np.ndarray], ...]


def words_of(model: DiffusionModel) -> Words:
    """What ``model`` is asked for: its world's words, if it is a world's."""
    world = world_of(model.source)
    return world.words() if world else USUAL


def bank_of(model: DiffusionModel, folder: Path | None = None, tell: Tell = lambda done, total: None) -> Bank:
    """The bank of ``model``: drawn once for a checkpoint, and kept in ``folder``, if there is one.

    ``tell(done, total)`` hears of its drawing and may raise to cancel. Things that cannot be told from their
    grounds are left out.
    """
    words = words_of(model)
    key = _key(model, words)
    bank = _REMEMBERED.get(key)
    if bank is None:
        file = None if folder is None else Path(folder) / f"{key}.safetensors"
        bank = _cut(words, _pictures(model, words, file, tell))
        _REMEMBERED.clear()         # people work with one checkpoint at a time
        _REMEMBERED[key] = bank
    log.info("views of the model's own: %d of %d outlines, %d surfaces, %d grounds", len(bank.things),
             len(words.things), len(bank.surfaces), len(bank.grounds))
    return bank


def _cut(words: Words, pictures: np.ndarray) -> Bank:
    """The bank of what was drawn of ``words``, (n, h, w, 3) uint8."""
    first, second = len(words.things), len(words.things) + len(words.surfaces)
    found = [(word, _mask(picture)) for word, picture in zip(words.things, pictures, strict=False)]
    surfaces = (_filled(picture, True) for picture in pictures[first:second])
    grounds = (_filled(picture, False) for picture in pictures[second:])
    return Bank(tuple((word, mask) for word, mask in found if mask is not None),
                tuple(zip(words.surfaces, surfaces, strict=True)),
                tuple(zip(words.grounds, grounds, strict=True)))


def _mask(picture: np.ndarray) -> np.ndarray | None:
    """The subject of a picture (h, w, 3) uint8, bool (h, w), None where it is not sure."""
    try:
        return subject_of(picture.astype(np.float32) / 255)[0]
    except ESCDiffError:
        return None


def _filled(picture: np.ndarray, subject: bool) -> np.ndarray:
    """The ``subject`` of a picture, or its ground, carried on over all of it; the picture as it is, where
    there is none."""
    mask = _mask(picture)
    return picture if mask is None else mirrored_outwards(
        picture, (mask if subject else ~mask).astype(np.float32))


def _pictures(model: DiffusionModel, words: Words, file: Path | None, tell: Tell) -> np.ndarray:
    """The pictures of all prompts, (n, h, w, 3) uint8: those in ``file``, or drawn and kept there."""
    pictures = None if file is None else _read(file, len(words.prompts()))
    if pictures is None:
        pictures = _draw(model, words, tell)
        if file is not None:
            _write(file, pictures)
    return pictures


def _key(model: DiffusionModel, words: Words) -> str:
    """What the pictures depend on, 32 hex digits: the prompts, and weights with whatever LoRA is on them."""
    modules = (model.unet, *(tower.encoder for tower in model.towers))
    heads = [t.flatten()[:LOOKED_AT].float() for m in modules for t in m.state_dict().values()]
    digest = hashlib.sha256(json.dumps([STEPS, model.native_size, words.prompts()]).encode())
    digest.update(torch.cat(heads).cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


def _draw(model: DiffusionModel, words: Words, tell: Tell) -> np.ndarray:
    at_once = min(AT_ONCE, encoded_at_once(model.native_size, model.native_size))
    pictures = sample(model, words.prompts(), how=Drawing(STEPS, batch_size=at_once), progress=tell)
    return np.round(255 * pictures).astype(np.uint8)


def _read(file: Path, count: int) -> np.ndarray | None:
    """The pictures in ``file``; None where there are none, or a damaged file, which is drawn again."""
    try:
        with safe_open(file, "np") as opened:
            pictures = opened.get_tensor(PICTURES)
    except (SafetensorError, OSError):
        return None
    with suppress(OSError):
        os.utime(file)              # used last
    return pictures if pictures.ndim == 4 and len(pictures) == count else None


def _write(file: Path, pictures: np.ndarray) -> None:
    try:
        write_safetensors({PICTURES: torch.from_numpy(pictures)}, file, METADATA_KEY, "1")
    except ESCDiffError as error:
        log.warning("the model's own pictures will be drawn again next time: %s", error)
        return
    with suppress(OSError):         # another process may take them away as well
        for old in sorted(file.parent.glob("*.safetensors"), key=lambda f: f.stat().st_mtime)[:-KEPT]:
            old.unlink()
