"""CLIP tokenizers without a hub: from a vocabulary in the checkpoint, or from the one that open_clip
installs."""

import json
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from transformers import CLIPTokenizer

from ..errors import ESCDiffError

START, END = "<|startoftext|>", "<|endoftext|>"
# open_clip spells the two special words differently from the files SD was trained with; the numbers are the
# same.
OPEN_CLIP_SPECIALS = {"<start_of_text>": START, "<end_of_text>": END}


def build_tokenizer(data: Mapping[str, Any] | None, max_length: int = 77, source: str = "the model",
                    padding: str | None = None) -> CLIPTokenizer:
    """Return a CLIPTokenizer for ``{"vocab": {token: id}, "merges": ["a b", ...]}``; None means Stable
    Diffusion's own. ``padding`` is the word that fills a prompt up, None the end word.

    Raises ESCDiffError when the vocabulary lacks the start or end word, or cannot be used.
    """
    return _usual(max_length, padding) if data is None else _build(data, max_length, source, padding)


@cache
def _usual(max_length: int, padding: str | None) -> CLIPTokenizer:
    """Stable Diffusion's own takes a third of a second to build, and every copy of a model has one."""
    return _build(usual_vocabulary(), max_length, "the model", padding)


def _build(data: Mapping[str, Any], max_length: int, source: str, padding: str | None) -> CLIPTokenizer:
    vocab, merges = data.get("vocab"), data.get("merges")
    usable = isinstance(vocab, Mapping) and isinstance(merges, (list, tuple))
    if not usable or not {START, END} <= vocab.keys() or not all(isinstance(i, int) for i in vocab.values()):
        raise ESCDiffError(
            f"{source}: the tokenizer must hold a vocab of word: number with {START} and {END}, and a "
            "list of merges"
        )
    lines = [m if isinstance(m, str) else " ".join(m) for m in merges]
    # Through files: the one way to hand over a vocabulary that transformers 4 and 5 share.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(dict(vocab)), encoding="utf-8")
        Path(folder, "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")
        try:
            return CLIPTokenizer.from_pretrained(folder, local_files_only=True, model_max_length=max_length,
                                                 pad_token=padding or END)
        except (ValueError, KeyError, OSError) as error:
            raise ESCDiffError(f"{source}: the tokenizer is unusable ({error})") from error


def check_tokenizer(tokenizer: CLIPTokenizer, vocab_size: int, source: str) -> None:
    """Raise ESCDiffError unless start, end and padding exist and every number has a row in the text
    encoder."""
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    highest = max(tokenizer.get_vocab().values())
    if None in special or highest >= vocab_size:
        raise ESCDiffError(
            f"{source}: the tokenizer counts up to {highest} with special words {special}, the text "
            f"encoder has {vocab_size} rows; they belong to different models"
        )


@cache
def usual_vocabulary() -> dict[str, Any]:
    """Return the 49408 words and 48894 merges of CLIP ViT-L/14, read from the file that open_clip brings
    along."""
    source = _open_clip_tokenizer().SimpleTokenizer()
    vocab = {OPEN_CLIP_SPECIALS.get(word, word): number for word, number in source.encoder.items()}
    return {"vocab": vocab, "merges": [" ".join(pair) for pair in source.bpe_ranks]}


def _open_clip_tokenizer() -> ModuleType:
    """open_clip's module of tokenizers alone: the package around it takes two seconds to import, which only
    pictures need."""
    if "open_clip.tokenizer" in sys.modules:
        return sys.modules["open_clip.tokenizer"]
    package = find_spec("open_clip")
    if package is None:
        raise ESCDiffError("the package open_clip_torch is missing; pip install open_clip_torch")
    path = Path(package.submodule_search_locations[0], "tokenizer.py")
    spec = spec_from_file_location("escdiff_open_clip_tokenizer", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
