"""Load a diffusers folder (unet/, vae/, text_encoder/, tokenizer/, scheduler/ …) from disk only."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from ..errors import ESCDiffError
from ..model.checkpoint import module_config
from ..model.tokenizer import check_tokenizer
from ..model.towers import TextTower
from .family import ModelConfig, TowerRow
from .recognise import family_of

NEEDED = ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")


def load_folder(path: Path, dtype: torch.dtype):
    """Return (unet, vae, towers, ModelConfig) of the diffusers folder ``path``, on the CPU.

    Raises ESCDiffError when a part is missing or damaged, kept only as a pickle, or of no family.
    """
    _check_parts(path, NEEDED)
    source = str(path)
    unet_config = _json(path / "unet/config.json")
    family = family_of(unet_config, source, any_context=True)
    _check_parts(path, [part for row in family.towers for part in (f"{row.folder}/config.json", row.words)])
    unet = _part(UNet2DConditionModel, path / "unet", torch_dtype=dtype)
    vae = _part(AutoencoderKL, path / "vae", torch_dtype=torch.float32)
    towers = tuple(_tower(path, row, dtype, source) for row in family.towers)
    given, read = sum(tower.width for tower in towers), unet.config.cross_attention_dim
    if given != read:
        raise ESCDiffError(
            f"{source}: the text encoder gives vectors of width {given}, the UNet reads {read}; "
            "the folder mixes two models"
        )
    config = ModelConfig(
        family=family.name,
        unet=module_config(unet),
        vae=module_config(vae),
        text_encoders={tower.name: module_config(tower.encoder) for tower in towers},
        scheduler=_json(path / "scheduler/scheduler_config.json"),
        native_size=int(unet.config.sample_size or 64) * 2 ** (len(vae.config.block_out_channels) - 1),
    )
    return unet, vae, towers, config


def _check_parts(path: Path, needed: Sequence[str]) -> None:
    missing = [part for part in needed if not (path / part).exists()]
    if missing:
        inside = next(iter(sorted(path.glob("*.safetensors"))), None)
        hint = f"; did you mean the file {inside}?" if inside else ""
        raise ESCDiffError(f"folder {path} is no diffusers model: it lacks {', '.join(missing)}{hint}")


def _tower(path: Path, row: TowerRow, dtype: torch.dtype, source: str) -> TextTower:
    """A folder's encoder ends where its UNet reads it, so what a row says of layers is for towers without a
    final norm."""
    encoder = _part(CLIPTextModelWithProjection if row.pooled else CLIPTextModel, path / row.folder).to(dtype)
    tokenizer = _tokenizer(path / row.words)
    check_tokenizer(tokenizer, encoder.config.vocab_size, source)
    return TextTower(row.name, encoder, tokenizer, row.hidden_state, row.pooled)


def _part(cls: type, folder: Path, **options: Any):
    """``from_pretrained`` for one part, from safetensors, also when only the fp16 variant is there."""
    files = [f.name for f in folder.glob("*.safetensors*")]
    if not files:
        raise ESCDiffError(
            f"{folder} holds no .safetensors weights (pickles are never opened); convert the model"
        )
    options |= {"use_safetensors": True, "variant": "fp16" if all(".fp16." in f for f in files) else None}
    with _one_sentence(folder):
        module, info = cls.from_pretrained(
            str(folder), local_files_only=True, output_loading_info=True, **options
        )
    lost = [*info["missing_keys"], *info["mismatched_keys"]]
    if lost:  # both libraries would only log it and leave random weights in place
        raise ESCDiffError(f"{folder} lacks {len(lost)} tensors (first: {lost[0]}); the folder is damaged")
    return module


def _tokenizer(folder: Path) -> CLIPTokenizer:
    if not any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        raise ESCDiffError(f"{folder} holds neither vocab.json nor tokenizer.json; the folder is incomplete")
    with _one_sentence(folder):
        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)


@contextmanager
def _one_sentence(folder: Path) -> Iterator[None]:
    """Turn what the libraries raise for a bad folder into one sentence; keep their bars and warnings off the
    screen."""
    shown = transformers_logging.is_progress_bar_enabled()
    verbosities = [
        (logging, logging.get_verbosity()) for logging in (diffusers_logging, transformers_logging)
    ]
    transformers_logging.disable_progress_bar()
    for logging, _ in verbosities:
        logging.set_verbosity_error()
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ESCDiffError(
            f"{folder} cannot be loaded ({reason}); the folder is incomplete or damaged"
        ) from error
    finally:
        for logging, verbosity in verbosities:
            logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ESCDiffError(f"{path} is not readable JSON ({error}); the folder is damaged") from error
    if not isinstance(data, dict):
        raise ESCDiffError(f"{path} holds no configuration; the folder is damaged")
    return data
