"""Which of a token's vectors a layer reads at a timestep: one for all, one per cross-attention layer, per
stage, or per both.

``layers`` is P+ (Voynov et al. 2023), ``stages`` is ProSpect (Zhang et al. 2023), both together is the
space-time of NeTI (Alaluf et al. 2023): one stage's layers after the other's. In prompts a vector of several
stands under a name of its own, ``*m#3``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch.nn.functional as F

from ..attribute import Attribute
from ..choices import STAGES
from ..errors import ESCDiffError
from ..model.text import Vectors
from .blocks import block_of

CROSS = ".attn2.to_k.weight"


def cross_blocks(tensor_names: Iterable[str]) -> tuple[str, ...]:
    """The blocks with cross-attention, in the order of the rows of a ``layers`` token."""
    return tuple(sorted({block_of(n) for n in tensor_names if n.endswith(CROSS)}))


def vector_count(layout: str, tensor_names: Iterable[str]) -> int:
    """How many vectors a token of ``layout`` has on a UNet with these tensors."""
    layers = len(cross_blocks(tensor_names)) if by_layer(layout) else 1
    return layers * (STAGES if by_stage(layout) else 1)


def by_layer(layout: str) -> bool:
    """Has a token of ``layout`` vectors of its own for each layer?"""
    return layout.startswith("layers")


def by_stage(layout: str) -> bool:
    """Has a token of ``layout`` vectors of its own for each stage?"""
    return layout.endswith("stages")


def stage_of(timestep: float, total: int) -> int:
    """The stage of a timestep (0 to total - 1): 0 is the last, least noisy tenth; a border is the noisier
    one's."""
    return min(int(STAGES * (timestep + 1) / total), STAGES - 1)


def lost_rows(
    layout: str, stages: tuple[int, int], kept: Sequence[str], tensor_names: Iterable[str]
) -> list[int]:
    """The rows of a token that an attribute does not keep: those of other layers than its ``kept`` blocks, or
    other stages."""
    if by_layer(layout):
        blocks = cross_blocks(tensor_names) * (STAGES if by_stage(layout) else 1)
        return [i for i, block in enumerate(blocks) if block not in kept]
    return [i for i in range(STAGES) if not stages[0] <= i < stages[1]] if layout == "stages" else []


def row_name(token: str, row: int) -> str:
    """What stands in a prompt for vector ``row`` of a token with several."""
    return f"{token}#{row}"


def named_rows(tokens: Mapping[str, Vectors]) -> dict[str, Vectors]:
    """Every vector of every token, (1, dim) for each tower, under its own name."""
    return {row_name(name, i): {tower: rows[i:i + 1] for tower, rows in vectors.items()}
            for name, vectors in tokens.items() for i in range(len(next(iter(vectors.values()))))}


def in_one(attribute: Attribute) -> Attribute:
    """The attribute with one token for every layer and stage, the mean of its vectors: for a prompt that
    serves them all."""
    if attribute.layout == "one":
        return attribute
    means = {name: F.normalize(rows.mean(0, keepdim=True), dim=-1) * rows.norm(dim=-1).mean()
             for name, rows in attribute.embeddings.items()}
    return replace(attribute, layout="one", embeddings=means)


def only_stage(attribute: Attribute, stage: int) -> Attribute:
    """The attribute with the vectors of one ``stage``: one, or one for each layer."""
    if attribute.layout == "stages":
        return only_row(attribute, stage)
    layers = max(len(rows) for rows in attribute.embeddings.values()) // STAGES
    part = {n: rows[stage * layers:(stage + 1) * layers] for n, rows in attribute.embeddings.items()}
    return replace(attribute, layout="layers", embeddings=part)


def only_row(attribute: Attribute, row: int) -> Attribute:
    """The attribute with vector ``row`` as its one vector. Raises ESCDiffError when it has fewer."""
    least = min(len(rows) for rows in attribute.embeddings.values())
    if row >= least:
        raise ESCDiffError(
            f"the token {attribute.token!r} has {least} vectors, this model's {attribute.layout} need "
            f"more than {row}; load the model it was learned on"
        )
    return replace(
        attribute,
        layout="one",
        embeddings={n: rows[row : row + 1] for n, rows in attribute.embeddings.items()},
    )
