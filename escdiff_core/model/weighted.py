"""Prompts as ComfyUI reads them: weights in parentheses, and no end after 75 words.

``(word:1.3)`` weighs 1.3, ``(word)`` 1.1 times what is around it, ``\\(word\\)`` has plain parentheses. A
long prompt is encoded in chunks of 75. So the command line reads a prompt as ComfyUI does.
"""

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import torch

from .conditioning import Conditioning
from .text import HasTowers, Vectors, check_prompts, places_of, replaced_embeddings, tokens_of
from .towers import TextTower, side_by_side

log = logging.getLogger(__name__)
EMBEDDING = re.compile(r"(?:^|\s)embedding:\S")
EMPHASIS = 1.1          # of parentheses without a number
LONG = 8                # words of a part that may be cut in two; a shorter one moves to the next chunk

Place = tuple[int, torch.Tensor | None, float]      # id, the vector that takes its place, weight


def encode_weighted(model: HasTowers, prompts: Sequence[str],
                    tokens: Mapping[str, Vectors | torch.Tensor] | None = None) -> Conditioning:
    """Encode prompts for drawing: text states (b, n * 77, dim), where n chunks hold the longest of them; a
    pooled vector is that of the first chunk, without weights.

    ``tokens`` as in text.encode_prompts, which is for training. Shorter prompts are repeated, which no
    cross-attention notices. Raises ESCDiffError as encode_prompts does.
    """
    check_prompts(prompts)
    if any(EMBEDDING.search(prompt) for prompt in prompts):
        log.warning("a prompt has an embedding: file, which only ComfyUI knows; it is read as plain words")
    return side_by_side(
        [_encode(tower, prompts, tokens_of(model, tower, tokens or {})) for tower in model.towers]
    )


def _encode(tower: TextTower, prompts: Sequence[str], tokens: Mapping[str, torch.Tensor]) -> Conditioning:
    cut = [chunks_of(tower, prompt, tokens) for prompt in prompts]
    rows = [chunk for chunks in cut for chunk in chunks]
    if any(weight != 1 for row in rows for *_, weight in row):
        rows.append(chunks_of(tower, "", {})[0])            # weights count from the empty prompt
    # (chunks, 77)
    ids = torch.tensor([[number for number, *_ in row] for row in rows], device=tower.table.weight.device)
    spots = [(r, place, vector[None]) for r, row in enumerate(rows)
             for place, (_, vector, _) in enumerate(row) if vector is not None]
    with replaced_embeddings(tower.table, spots):
        read = tower.read(ids)
    states = read.context
    weights = torch.tensor([[weight for *_, weight in row] for row in rows]).to(states)[..., None]
    # where the weight is 1, the states themselves: the sum below would round them
    states = torch.where(weights == 1, states, (states - states[-1:]) * weights + states[-1:])
    most, made, firsts = math.lcm(*map(len, cut)), [], [0, *accumulate(map(len, cut))][:-1]
    for first, chunks in zip(firsts, cut, strict=True):
        own = states[first:first + len(chunks)].flatten(0, 1)
        made.append(own.repeat(most // len(chunks), 1))
    return Conditioning(torch.stack(made), None if read.pooled is None else read.pooled[firsts])


def weighted_parts(text: str, weight: float = 1.0) -> Iterator[tuple[str, float]]:
    """The parts of ``text`` with their weights, escapes still in them.

    As in ComfyUI, behind a closing parenthesis too many all is plain text; an opening one reaches to the end.
    """
    level, begun, last = 0, 0, 0
    for place, letter in enumerate(text):
        if letter not in "()" or (place and text[place - 1] == "\\"):
            continue
        level += 1 if letter == "(" else -1
        if letter == "(" and level == 1:
            begun = place
        elif letter == ")" and level == 0:
            if begun > last:
                yield text[last:begun], weight
            yield from weighted_parts(*_weight_of(text[begun + 1:place], weight))
            last = place + 1
    if level > 0:
        if begun > last:
            yield text[last:begun], weight
        if text.endswith(")") and not text.endswith("\\)"):
            yield from weighted_parts(*_weight_of(text[begun + 1:-1], weight))
        else:
            yield text[begun:], weight
    elif last < len(text):
        yield text[last:], weight


def _weight_of(inner: str, around: float) -> tuple[str, float]:
    text, colon, number = inner.rpartition(":")
    try:
        return (text, float(number)) if colon and text else (inner, around * EMPHASIS)
    except ValueError:
        return inner, around * EMPHASIS


def chunks_of(tower: TextTower, prompt: str, tokens: Mapping[str, torch.Tensor]) -> list[list[Place]]:
    """``prompt`` in chunks of 77 places, start, end and padding included; at least one."""
    start, end, pad = ((i, None, 1.0) for i in (tower.tokenizer.bos_token_id, tower.tokenizer.eos_token_id,
                                                tower.tokenizer.pad_token_id))
    room = tower.places - 2
    chunks: list[list[Place]] = [[]]
    for text, weight in weighted_parts(prompt):
        plain = text.replace("\\(", "(").replace("\\)", ")")
        group = [(*place, weight) for place in places_of(tower, plain, tokens)]
        may_be_cut = len(group) >= LONG
        while group:
            left = room - len(chunks[-1])
            taken = len(group) if len(group) <= left else left if may_be_cut else 0
            chunks[-1] += group[:taken]
            group = group[taken:]
            if group:
                chunks.append([])
    return [[start, *chunk, end, *[pad] * (room - len(chunk))] for chunk in chunks]
