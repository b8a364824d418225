"""Prompts to cross-attention states, with learned vectors in place of placeholder tokens (differentiable)."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from ..errors import ESCDiffError
from .conditioning import Conditioning
from .towers import TextTower, side_by_side

log = logging.getLogger(__name__)
# id at the places whose embedding is replaced anyway; neither start nor end, which transformers looks for
STAND_IN = 0
# a letter or digit of a script that parts its words by spaces: all but Thai to Myanmar, Khmer, and those of
# East Asia
LETTER = "[^\\W\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\ua4cf\ua960-\ua97f\uac00-\ud7ff" \
         "\uf900-\ufaff\uff66-\uffdc\U0001b000-\U0001b2ff\U00020000-\U0003ffff]"


# a token's vectors for each text tower: (n, dim), the same n in each
Vectors = Mapping[str, torch.Tensor]


class HasTowers(Protocol):
    """What encoding needs of a model: diffusion.DiffusionModel, or a private copy in training."""

    towers: Sequence[TextTower]


def encode_prompts(
    model: HasTowers, prompts: Sequence[str], tokens: Mapping[str, Vectors | torch.Tensor] | None = None
) -> Conditioning:
    """Encode prompts as the model was trained on them: text states (b, 77, dim), and whatever else its family
    has.

    ``tokens`` maps a placeholder (``*m``) to its vectors for each tower, (n, dim) or (dim,); with one tower
    they may stand alone. Wherever the placeholder stands as a word of its own (case counts), the n vectors
    take its place. Gradients flow to them. Prompts beyond 77 tokens are cut, and the log says so;
    weighted.encode_weighted, for drawing, has no such end. Raises ESCDiffError for vectors of the wrong width
    and for no prompt at all.
    """
    check_prompts(prompts)
    return side_by_side(
        [_encode(tower, prompts, tokens_of(model, tower, tokens or {})) for tower in model.towers]
    )


def _encode(tower: TextTower, prompts: Sequence[str], tokens: Mapping[str, torch.Tensor]) -> Conditioning:
    length, device = tower.places, tower.table.weight.device
    rows, spots = [], []
    for number, prompt in enumerate(prompts):
        places = places_of(tower, prompt, tokens)
        if len(places) > length - 2:
            lost = any(vector is not None for _, vector in places[length - 2 :])
            log.warning("prompt cut to %d of %d tokens%s: %r", length - 2, len(places),
                        ", and a learned one is lost; put it further to the front" if lost else "", prompt)
            places = places[: length - 2]
        ids = [tower.tokenizer.bos_token_id, *(number for number, _ in places), tower.tokenizer.eos_token_id]
        rows.append(ids + [tower.tokenizer.pad_token_id] * (length - len(ids)))
        spots += [(number, i, vector[None]) for i, (_, vector) in enumerate(places, 1) if vector is not None]
    with replaced_embeddings(tower.table, spots):
        return tower.read(torch.tensor(rows, device=device))  # ids (b, 77)


def tokens_of(
    model: HasTowers, tower: TextTower, tokens: Mapping[str, Vectors | torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The vectors (n, dim) that ``tower`` has for each of ``tokens``. Raises ESCDiffError for one that it has
    none for."""
    made = {}
    for name, given in tokens.items():
        if isinstance(given, torch.Tensor) and len(model.towers) == 1:
            given = {tower.name: given}
        if isinstance(given, torch.Tensor) or tower.name not in given:
            raise ESCDiffError(
                f"the token {name!r} has no vectors for the text encoder {tower.name}, which this "
                "model reads; load the model it was learned on"
            )
        made[name] = as_rows(tower, name, given[tower.name])
    return made


def check_prompts(prompts: Sequence[str]) -> None:
    """Raise ESCDiffError unless ``prompts`` is a list with at least one text."""
    if isinstance(prompts, str) or not prompts:
        raise ESCDiffError(f"prompts must be a list with at least one text, not {prompts!r}")


def word_embedding(tower: TextTower, word: str) -> torch.Tensor:
    """Return the rows of the embedding table for ``word``, (n, dim), one per BPE token. A copy, without
    gradient."""
    ids = _ids(tower, word)
    if not ids:
        raise ESCDiffError(f"the word {word!r} has no tokens; give a word with letters")
    table = tower.table.weight
    return table.detach()[torch.tensor(ids, device=table.device)].clone()


@dataclass(frozen=True)
class Words:
    """The words that one text encoder knows: ``rows`` gives a word's rows of its table, (n, ``width``), one
    per piece."""

    width: int
    rows: Callable[[str], torch.Tensor]
    device: torch.device

    @classmethod
    def of(cls, tower: TextTower) -> "Words":
        return cls(tower.width, partial(word_embedding, tower), tower.table.weight.device)


def split_placeholders(prompt: str, names: Sequence[str]) -> list[tuple[str, bool]]:
    """Cut a prompt into (text, is placeholder) pieces. ``*mouse`` and ``*m2`` hold no ``*m``: where a
    placeholder begins or ends with a letter or digit, none may touch it there. Only scripts without spaces
    between words may: ``一张*m的照片`` holds one.
    """
    if not names:
        return [(prompt, False)]
    longest_first = sorted(names, key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(_as_pattern, longest_first))})", prompt)
    return [(piece, i % 2 == 1) for i, piece in enumerate(pieces) if piece]


def replace_placeholders(prompt: str, words: Mapping[str, str]) -> str:
    """``prompt`` with ``words`` for its placeholders, and a space wherever letters or digits would touch that
    did not."""
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


def places_of(
    tower: TextTower, text: str, tokens: Mapping[str, torch.Tensor]
) -> list[tuple[int, torch.Tensor | None]]:
    """The places that ``text`` takes: (id, None), or (a stand-in, vector) where a placeholder of ``tokens``
    stands."""
    made: list[tuple[int, torch.Tensor | None]] = []
    for piece, is_placeholder in split_placeholders(text, list(tokens)):
        if is_placeholder:
            made += [(STAND_IN, vector) for vector in tokens[piece]]
        else:
            made += [(number, None) for number in _ids(tower, piece)]
    return made


def _ids(tower: TextTower, text: str) -> list[int]:
    return tower.tokenizer(text, add_special_tokens=False).input_ids


def as_rows(tower: TextTower, name: str, vectors: torch.Tensor) -> torch.Tensor:
    """``vectors`` of the token ``name`` as (n, dim). Raises ESCDiffError for those of another model."""
    rows = vectors[None] if vectors.ndim == 1 else vectors  # (n, dim)
    width = tower.width
    if not name.strip() or rows.ndim != 2 or not len(rows) or rows.shape[1] != width:
        raise ESCDiffError(
            f"the token {name!r} has vectors of shape {tuple(vectors.shape)}; this model needs (n, "
            f"{width}) with n at least 1: the attribute was learned on another model family"
        )
    return rows


@contextmanager
def replaced_embeddings(
    table: torch.nn.Embedding, spots: Sequence[tuple[int, int, torch.Tensor]]
) -> Iterator[None]:
    """While open, the embedding's output (b, 77, dim) carries vectors at ``spots``: (row, first place, (n,
    dim)).

    A hook on the embedding leaves positions, causal mask and layers to transformers' own forward: the plain
    path.
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
