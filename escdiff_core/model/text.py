"""Prompts to cross-attention states, with learned vectors in place of placeholder tokens (differentiable)."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from ..errors import ESCDiffError

log = logging.getLogger(__name__)
STAND_IN = 0  # id at the places whose embedding is replaced anyway; neither start nor end, which transformers looks for
# a letter or digit of a script that parts its words by spaces: all but Thai to Myanmar, Khmer, and those of East Asia
LETTER = "[^\\W\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\ua4cf\ua960-\ua97f\uac00-\ud7ff" \
         "\uf900-\ufaff\uff66-\uffdc\U0001b000-\U0001b2ff\U00020000-\U0003ffff]"


class HasText(Protocol):
    """What encoding needs of a model: load.DiffusionModel, or a private copy in training."""

    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer


def encode_prompts(
    model: HasText, prompts: Sequence[str], tokens: Mapping[str, torch.Tensor] | None = None
) -> torch.Tensor:
    """Encode prompts as SD 1.x was trained on them: the text encoder's last hidden state, (b, 77, dim).

    ``tokens`` maps a placeholder (``*m``) to its vectors, (n, dim) or (dim,); wherever the placeholder stands as a word
    of its own (case counts), the n vectors take its place. Gradients flow to them. Prompts beyond 77 tokens are cut,
    and the log says so; weighted.encode_weighted, for drawing, has no such end. Raises ESCDiffError for vectors of the
    wrong width and for no prompt at all.
    """
    check_prompts(prompts)
    tokens = {name: as_rows(model, name, vectors) for name, vectors in (tokens or {}).items()}
    encoder = model.text_encoder
    length = encoder.config.max_position_embeddings
    device = embedding_table(model).weight.device
    rows, spots = [], []
    for number, prompt in enumerate(prompts):
        places = places_of(model, prompt, tokens)
        if len(places) > length - 2:
            lost = any(vector is not None for _, vector in places[length - 2 :])
            log.warning("prompt cut to %d of %d tokens%s: %r", length - 2, len(places),
                        ", and a learned one is lost; put it further to the front" if lost else "", prompt)
            places = places[: length - 2]
        ids = [model.tokenizer.bos_token_id, *(number for number, _ in places), model.tokenizer.eos_token_id]
        rows.append(ids + [model.tokenizer.pad_token_id] * (length - len(ids)))
        spots += [(number, i, vector[None]) for i, (_, vector) in enumerate(places, 1) if vector is not None]
    with replaced_embeddings(embedding_table(model), spots):
        return encoder(input_ids=torch.tensor(rows, device=device)).last_hidden_state  # ids (b, 77)


def check_prompts(prompts: Sequence[str]) -> None:
    """Raise ESCDiffError unless ``prompts`` is a list with at least one text."""
    if isinstance(prompts, str) or not prompts:
        raise ESCDiffError(f"prompts must be a list with at least one text, not {prompts!r}")


def word_embedding(model: HasText, word: str) -> torch.Tensor:
    """Return the rows of the embedding table for ``word``, (n, dim), one per BPE token. A copy, without gradient."""
    ids = _ids(model, word)
    if not ids:
        raise ESCDiffError(f"the word {word!r} has no tokens; give a word with letters")
    table = embedding_table(model).weight
    return table.detach()[torch.tensor(ids, device=table.device)].clone()


def embedding_table(model: HasText) -> torch.nn.Embedding:
    """The token embedding of the text encoder, (vocabulary, dim)."""
    return model.text_encoder.get_input_embeddings()


@dataclass(frozen=True)
class Words:
    """The words that one text encoder knows: ``rows`` gives a word's rows of its table, (n, ``width``), one per piece."""

    width: int
    rows: Callable[[str], torch.Tensor]
    device: torch.device

    @classmethod
    def of(cls, model: HasText) -> "Words":
        table = embedding_table(model).weight
        return cls(table.shape[1], partial(word_embedding, model), table.device)


def split_placeholders(prompt: str, names: Sequence[str]) -> list[tuple[str, bool]]:
    """Cut a prompt into (text, is placeholder) pieces. ``*mouse`` and ``*m2`` hold no ``*m``: where a placeholder begins
    or ends with a letter or digit, none may touch it there. Only scripts without spaces between words may: ``一张*m的照片``
    holds one.
    """
    if not names:
        return [(prompt, False)]
    longest_first = sorted(names, key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(_as_pattern, longest_first))})", prompt)
    return [(piece, i % 2 == 1) for i, piece in enumerate(pieces) if piece]


def replace_placeholders(prompt: str, words: Mapping[str, str]) -> str:
    """``prompt`` with ``words`` for its placeholders, and a space wherever letters or digits would touch that did not."""
    made = ""
    for piece, is_placeholder in split_placeholders(prompt, list(words)):
        piece = words[piece] if is_placeholder else piece
        touch = re.match(r"\w", piece) and re.search(r"\w\Z", made)
        made += f" {piece}" if touch else piece
    return made


def _as_pattern(name: str) -> str:
    before = f"(?<!{LETTER})" if re.match(r"\w", name) else ""
    behind = f"(?!{LETTER})" if re.search(r"\w\Z", name) else ""
    return f"{before}{re.escape(name)}{behind}"


def places_of(model: HasText, text: str, tokens: Mapping[str, torch.Tensor]) -> list[tuple[int, torch.Tensor | None]]:
    """The places that ``text`` takes: (id, None), or (a stand-in, vector) where a placeholder of ``tokens`` stands."""
    made: list[tuple[int, torch.Tensor | None]] = []
    for piece, is_placeholder in split_placeholders(text, list(tokens)):
        if is_placeholder:
            made += [(STAND_IN, vector) for vector in tokens[piece]]
        else:
            made += [(number, None) for number in _ids(model, piece)]
    return made


def _ids(model: HasText, text: str) -> list[int]:
    return model.tokenizer(text, add_special_tokens=False).input_ids


def as_rows(model: HasText, name: str, vectors: torch.Tensor) -> torch.Tensor:
    """``vectors`` of the token ``name`` as (n, dim). Raises ESCDiffError for those of another model."""
    rows = vectors[None] if vectors.ndim == 1 else vectors  # (n, dim)
    width = embedding_table(model).weight.shape[1]
    if not name.strip() or rows.ndim != 2 or not len(rows) or rows.shape[1] != width:
        raise ESCDiffError(
            f"the token {name!r} has vectors of shape {tuple(vectors.shape)}; this model needs (n, {width}) with n at "
            "least 1: the attribute was learned on another model family"
        )
    return rows


@contextmanager
def replaced_embeddings(
    table: torch.nn.Embedding, spots: Sequence[tuple[int, int, torch.Tensor]]
) -> Iterator[None]:
    """While open, the embedding's output (b, 77, dim) carries vectors at ``spots``: (row, first place, (n, dim)).

    A hook on the embedding leaves positions, causal mask and layers to transformers' own forward: the plain path.
    """

    def replace(_module, _inputs, embedded: torch.Tensor) -> torch.Tensor:
        embedded = embedded.clone()
        for row, start, vectors in spots:
            embedded[row, start : start + len(vectors)] = vectors.to(embedded)
        return embedded

    if not spots:
        yield
        return
    handle = table.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
