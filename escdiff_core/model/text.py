"""Prompts to cross-attention states, with learned vectors in place of placeholder tokens (differentiable)."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from ..errors import ESCDiffError

log = logging.getLogger(__name__)
STAND_IN = 0  # id at the places whose embedding is replaced anyway; neither start nor end, which transformers looks for


class HasText(Protocol):
    """What encoding needs of a model: load.DiffusionModel, or a private copy in training."""

    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer


def encode_prompts(
    model: HasText, prompts: Sequence[str], tokens: Mapping[str, torch.Tensor] | None = None
) -> torch.Tensor:
    """Encode prompts as SD 1.x does: the text encoder's last hidden state, (b, 77, dim).

    ``tokens`` maps a placeholder (``*m``) to its vectors, (n, dim) or (dim,); wherever the placeholder stands as a word
    of its own (case counts), the n vectors take its place. Gradients flow to them. Prompts beyond 77 tokens are cut,
    and the log says so. Raises ESCDiffError for vectors of the wrong width and for no prompt at all.
    """
    if isinstance(prompts, str) or not prompts:
        raise ESCDiffError(f"prompts must be a list with at least one text, not {prompts!r}")
    tokens = {name: _as_rows(model, name, vectors) for name, vectors in (tokens or {}).items()}
    encoder = model.text_encoder
    length = encoder.config.max_position_embeddings
    rows = [_place(model, prompt, tokens, length) for prompt in prompts]
    device = embedding_table(model).weight.device
    ids = torch.tensor([ids for ids, _ in rows], device=device)  # (b, 77)
    spots = [(b, start, name) for b, (_, found) in enumerate(rows) for start, name in found]
    with _replaced_embeddings(embedding_table(model), spots, tokens):
        return encoder(input_ids=ids).last_hidden_state


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


def split_placeholders(prompt: str, names: Sequence[str]) -> list[tuple[str, bool]]:
    """Cut a prompt into (text, is placeholder) pieces; a placeholder touched by a letter or digit is plain text."""
    if not names:
        return [(prompt, False)]
    longest_first = sorted(names, key=len, reverse=True)
    pattern = "|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in longest_first)
    pieces = re.split(f"({pattern})", prompt)
    return [(piece, i % 2 == 1) for i, piece in enumerate(pieces) if piece]


def _place(model: HasText, prompt: str, tokens: Mapping[str, torch.Tensor], length: int):
    """Return the ids of one prompt, padded to ``length``, and where vectors go: [(first position, placeholder)]."""
    ids: list[int] = [model.tokenizer.bos_token_id]
    found: list[tuple[int, str]] = []
    for piece, is_placeholder in split_placeholders(prompt, list(tokens)):
        if is_placeholder:
            found.append((len(ids), piece))
            ids += [STAND_IN] * len(tokens[piece])
        else:
            ids += _ids(model, piece)
    if len(ids) > length - 1:
        log.warning("prompt cut to %d of %d tokens: %r", length - 2, len(ids) - 1, prompt)
        ids = ids[: length - 1]
    ids.append(model.tokenizer.eos_token_id)
    ids += [model.tokenizer.pad_token_id] * (length - len(ids))
    return ids, found


def _ids(model: HasText, text: str) -> list[int]:
    return model.tokenizer(text, add_special_tokens=False).input_ids


def _as_rows(model: HasText, name: str, vectors: torch.Tensor) -> torch.Tensor:
    rows = vectors[None] if vectors.ndim == 1 else vectors  # (n, dim)
    width = embedding_table(model).weight.shape[1]
    if not name.strip() or rows.ndim != 2 or not len(rows) or rows.shape[1] != width:
        raise ESCDiffError(
            f"the token {name!r} has vectors of shape {tuple(vectors.shape)}; this model needs (n, {width}) with n at "
            "least 1: the attribute was learned on another model family"
        )
    return rows


@contextmanager
def _replaced_embeddings(
    table: torch.nn.Embedding, spots: Sequence[tuple[int, int, str]], tokens: Mapping[str, torch.Tensor]
) -> Iterator[None]:
    """While open, the embedding's output (b, 77, dim) carries the vectors of ``tokens`` at ``spots``.

    A hook on the embedding leaves positions, causal mask and layers to transformers' own forward: the plain path.
    """

    def replace(_module, _inputs, embedded: torch.Tensor) -> torch.Tensor:
        embedded = embedded.clone()
        for row, start, name in spots:
            room = embedded.shape[1] - 1 - start  # the last place is the end word's
            vectors = tokens[name][: max(room, 0)].to(embedded)
            embedded[row, start : start + len(vectors)] = vectors
        return embedded

    if not spots:
        yield
        return
    handle = table.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
