"""Names for what a run learns from, by content: the same on every machine, known before anything is copied or
computed."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import torch

from ...escdiff_core.families import FAMILIES
from .export import checkpoint_fingerprint, config_of, named, remembered, text_tensors


def source_digests(model, clip, vae) -> dict[str, object]:
    """What tells the host's MODEL, CLIP and VAE from others, as JSON data: weights, LoRAs, clip skip, noise
    schedule.

    Weights are read once per loaded checkpoint, LoRAs once per stack. Raises ESCDiffError as export.config_of
    does.
    """
    config = config_of(model, clip, vae)
    text, decoder = clip.cond_stage_model, vae.first_stage_model
    return {"unet": checkpoint_fingerprint(model), "unet_patches": patches_digest(model),
            "text": remembered(text, "digest", lambda: weights_digest(
                {f"{tower}.{n}": t for tower in FAMILIES[config.family].tower_names
                 for n, t in text_tensors(clip, tower, named).items()})),
            "text_patches": patches_digest(clip.patcher),
            "vae": remembered(decoder, "digest", lambda: weights_digest(decoder.state_dict())),
            "config": asdict(config)}


def weights_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 (hex) of names, shapes and values as fp16, so that a file in fp32 or rounded to fp16 has the
    same."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().to("cpu", torch.float16).contiguous().numpy())
    return digest.hexdigest()


def patches_digest(patcher) -> str:
    """sha256 (hex) of all that was put onto a MODEL or CLIP, LoRAs and merges with their strengths; empty
    without any."""
    if not patcher.patches:
        return ""

    def read() -> str:
        digest = hashlib.sha256()
        for name, patches in sorted(patcher.patches.items(), key=lambda item: str(item[0])):
            _feed(digest, str(name))
            _feed(digest, patches)
        return digest.hexdigest()

    return remembered(patcher.model, ("patches", patcher.patches_uuid), read)


def _feed(digest, value) -> None:
    """Add a part of a patch: numbers and words, tensors, lists of them, or one of the host's adapters, which
    hold ``weights``."""
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, (list, tuple)):
        digest.update(f"{len(value)} of\n".encode())
        for part in value:
            _feed(digest, part)
    elif hasattr(value, "weights"):
        digest.update(f"{type(value).__name__}\n".encode())
        _feed(digest, value.weights)
    elif callable(value):
        digest.update(f"{getattr(value, '__qualname__', type(value).__name__)}\n".encode())
    else:
        digest.update(f"{value!r}\n".encode())


def picture_digest(image: torch.Tensor, mask: torch.Tensor | None) -> str:
    """sha256 (hex) of pictures and masks as they were given, before anything is scaled or looked for in
    them."""
    digest = hashlib.sha256()
    for given in (image, mask):
        _feed(digest, given if given is None else given.float())
    return digest.hexdigest()


def file_digest(path: str | Path | None) -> str:
    """sha256 (hex) of a file, empty without one. Read again only when it was written anew."""
    if path is None:
        return ""
    stat = Path(path).stat()
    return _file_digest(str(path), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _file_digest(path: str, _written: int, _size: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
