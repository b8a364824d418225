"""The vectors that a token starts from, one for each text tower, and how each keeps a word's length."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from ..model.text import HasTowers, Vectors, word_embedding


def starting_word(model: HasTowers, word: str) -> dict[str, torch.Tensor]:
    """One vector for a word of ``model``, for each of its towers, (dim,); see one_vector."""
    return {tower.name: one_vector(word_embedding(tower, word)) for tower in model.towers}


def one_vector(rows: torch.Tensor) -> torch.Tensor:
    """One vector for the ``rows`` of a word's pieces, (n, dim): their mean at their mean norm, (dim,)."""
    rows = rows.float()
    return F.normalize(rows.mean(0), dim=0) * rows.norm(dim=1).mean()


def parts_of(words: Mapping[str, torch.Tensor], side_by_side: torch.Tensor) -> dict[str, torch.Tensor]:
    """What lies ``side_by_side`` (…, sum of the widths) for the towers of ``words``: (…, dim) for each."""
    return dict(zip(words, side_by_side.split([len(word) for word in words.values()], dim=-1), strict=True))


def moved(words: Mapping[str, torch.Tensor], offset: torch.Tensor, seen: torch.Tensor | None = None,
          scale: float = 0.0) -> Vectors:
    """The token's vectors, (…, dim) for each tower: the word, moved by ``offset`` and by what a filter has
    ``seen``, (…, sum of the widths) both, the latter in units of ``scale`` times the word's norm (E4T, Gal et
    al. 2023).
    """
    offsets, found = parts_of(words, offset), {} if seen is None else parts_of(words, seen)
    return {
        name: merge(
            word, offsets[name] if seen is None else scale * found[name] * word.norm() + offsets[name]
        )
        for name, word in words.items()
    }


def merge(word: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """``word`` plus ``offset``, (…, dim), back at the word's norm: free optimisation inflates tokens
    (NeTI)."""
    return F.normalize(word + offset, dim=-1) * word.norm()
