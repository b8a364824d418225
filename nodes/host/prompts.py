"""Prompts with learned tokens through the host's own CLIP: weights, long prompts, CLIP skip as everywhere.

What every CLIP of the host offers is ``tokenize``: ``{tower: [[(id or vector, weight), …], …]}``. A token
goes in as a word that the prompt does not have, its mark; then the vectors take the places of the mark's ids.
So a prompt with a token is cut, weighted and padded as the same prompt with a plain word. Text encoders are
named as in attribute files: ``clip_l``, ``clip_g``.
"""

import copy
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, cycle
from numbers import Integral

import comfy.lora
import torch

from ...escdiff_core.errors import ESCDiffError
from ...escdiff_core.model.text import Words, replace_placeholders, split_placeholders
from .notes import tell

TOWER = "clip_{}"       # a tower of the host, ``l``, in the words of attribute files and the host's weights
TABLE = "{}.transformer.text_model.embeddings.token_embedding.weight"
# Words of one id each in vocabularies of CLIP's kind; none that an apostrophe makes the end of a verb
MARKS = (*"qjzxvwkyubghcfpnlrioae", "photo", "house", "blue", "green", "cat")

Vectors = Mapping[str, torch.Tensor]    # text encoder to (n, dim); the same n in each


@dataclass(frozen=True)
class Tokenize:
    """What a tokenizer of the host does with a text (``usual``), with ``vectors`` in the places of tokens."""

    usual: Callable
    vectors: Mapping[str, Vectors]

    def __call__(self, text: str, return_word_ids: bool = False, **options) -> dict:
        pieces = split_placeholders(text, list(self.vectors))
        counts = {name: pieces.count((name, True)) for name, is_token in pieces if is_token}
        if not counts:
            return self.usual(text, return_word_ids, **options)
        free = free_marks(self.usual, [piece for piece, is_token in pieces if not is_token])
        marks = dict(zip(counts, free, strict=False))
        if len(marks) < len(counts):
            raise ESCDiffError(f"{' and '.join(counts)} cannot be told apart from the other words of this "
                               "prompt, which end in nearly every letter there is; make the prompt shorter")
        lengths = {name: len(next(iter(self.vectors[name].values()))) for name in counts}
        marked = replace_placeholders(text, {n: " ".join([marks[n].word] * lengths[n]) for n in counts})
        made, missed = {}, set()
        for tower, chunks in self.usual(marked, return_word_ids, **options).items():
            rows = {marks[n].ids[tower]: cycle(self.vectors[n][TOWER.format(tower)]) for n in counts}
            made[tower] = [[(next(rows[e[0]]), *e[1:]) if isinstance(e[0], Integral) and e[0] in rows else e
                            for e in chunk] for chunk in chunks]
            held = [e[0] for e in chain.from_iterable(chunks) if isinstance(e[0], Integral)]
            missed |= {n for n in counts if held.count(marks[n].ids[tower]) != counts[n] * lengths[n]}
        if missed:
            tell(f"this ComfyUI left out {' and '.join(sorted(missed))} where it touches the name behind "
                 "embedding:; put a space between them", logging.WARNING)
        return made


@dataclass(frozen=True)
class Mark:
    """A ``word`` that is one id in every tower of the host's tokenizer: ``ids`` maps the tower to it."""

    word: str
    ids: Mapping[str, int]


def free_marks(tokenize: Callable, texts: Iterable[str]) -> Iterator[Mark]:
    """The marks whose ids nothing in ``texts`` gives; an id may also be the last piece of a longer word."""
    plain = unicodedata.normalize("NFKC", " ".join(texts)).lower()
    for word in MARKS:
        if re.search(rf"{word}(?![^\W\d_])", plain):
            continue
        found = {tower: words_in(chunks) for tower, chunks in tokenize(word, True).items()}
        if all(len(ids) == 1 for ids in found.values()):
            yield Mark(word, {tower: ids[0] for tower, ids in found.items()})


def words_in(chunks: Iterable[Iterable[tuple]]) -> list:
    """The ids of words in one tower's ``chunks``; the word number of start, end and padding is 0."""
    return [token for token, _weight, word in chain.from_iterable(chunks) if word]


def plain_tokenize(clip) -> Callable:
    """What the host's own tokenizer does, without the tokens that clip_with_tokens has taught the CLIP."""
    now = clip.tokenizer.tokenize_with_weights
    return now.usual if isinstance(now, Tokenize) else now


def encoders_of(clip) -> tuple[str, ...]:
    """The text encoders that ``clip`` consists of."""
    return tuple(TOWER.format(tower) for tower in plain_tokenize(clip)(""))


def words_of(clip, encoder: str) -> Words:
    """The words of one text encoder of ``clip``, merges included; rows are read one by one."""
    key = TABLE.format(encoder)
    (table, convert), *patches = clip.patcher.get_key_patches(key)[key]
    if patches:
        merged = convert(table.detach().cpu().clone(), inplace=False).float()
        table = comfy.lora.calculate_weight(patches, merged, key).to(table.dtype)

    def rows(tokenize: Callable, word: str) -> torch.Tensor:
        towers = tokenize(word, True, disable_weights=True).items()
        found = next(chunks for tower, chunks in towers if TOWER.format(tower) == encoder)
        ids = [token for token in words_in(found) if isinstance(token, Integral)]
        if not ids:
            raise ESCDiffError(f"the word {word!r} has no tokens; give a word with letters")
        return table.detach()[torch.tensor(ids, device=table.device)].float().cpu()

    return Words(table.shape[1], partial(rows, plain_tokenize(clip)), torch.device("cpu"))


def clip_with_tokens(clip, vectors: Mapping[str, Vectors]):
    """A clone of ``clip`` whose prompts know ``vectors``: placeholder to its vectors for each text encoder.

    ``*m``, ``(*m:1.3)`` and ``*m,`` work in every node that takes the CLIP. The original does not change, and
    a token known from an earlier call stays. Raises ESCDiffError when a text encoder gets no vectors.
    """
    now = clip.tokenizer.tokenize_with_weights
    known = {name: {encoder: rows.detach().float().cpu() for encoder, rows in own.items()}
             for name, own in vectors.items()}
    for name, own in known.items():
        if lost := set(encoders_of(clip)) - set(own):
            raise ESCDiffError(f"the token {name!r} has no vectors for {min(lost)}, a text encoder of this "
                               "CLIP; load the model it was learned on")
    known = {**getattr(now, "vectors", {}), **known}
    made = clip.clone()
    made.tokenizer = copy.copy(clip.tokenizer)      # a clone of a clone keeps its tokenizer, not its methods
    made.tokenizer.tokenize_with_weights = Tokenize(plain_tokenize(clip), known)
    return made


def encode(clip, text: str) -> list:
    """The host's CONDITIONING for ``text``: what its own text node gives."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))
