"""The vector that a token starts from, and how it keeps a word's length."""

import torch
import torch.nn.functional as F

from ..model.load import DiffusionModel
from ..model.text import word_embedding


def starting_word(model: DiffusionModel, word: str) -> torch.Tensor:
    """One vector for a word of ``model``, (dim,); see one_vector."""
    return one_vector(word_embedding(model, word))


def one_vector(rows: torch.Tensor) -> torch.Tensor:
    """One vector for the ``rows`` of a word's pieces, (n, dim): their mean at their mean norm, (dim,)."""
    rows = rows.float()
    return F.normalize(rows.mean(0), dim=0) * rows.norm(dim=1).mean()


def merge(word: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """``word`` plus ``offset``, (…, dim), back at the word's norm: free optimisation inflates tokens (NeTI)."""
    return F.normalize(word + offset, dim=-1) * word.norm()
