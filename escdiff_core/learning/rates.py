"""Rates that carry over: a step moves a tensor by a share of its own scale, so that one row of the recipes
serves a model of any width.

Adam moves every number by about the rate, however small the numbers are. All of a matrix's then add up on
what comes in: at one rate a matrix four times as wide moves its output four times as far. What a rate is
multiplied by here takes that out (the spectral condition, Yang et al. 2023, arXiv 2310.17813): a step's
largest singular value is the same share of the matrix's own, whatever its size.
"""

from math import isfinite, log2, sqrt

import torch

ROUNDS = 4          # of power iteration: within a tenth, which a rate does not feel
FINENESS = 4        # scales are rounded to so many a doubling, for an optimiser of few groups
# A low-rank change is a product, whose factors each have a rule of their own (Hayou et al. 2024, LoRA+): the
# lower one's is what its random start makes of an average input, the upper one's what the matrix makes of it.
# Found on one shape of the pocket model, which takes them lightly: its loss after 95 steps lay between 0.287
# and 0.297 with DOWN from 1 to 30 and UP from 0.1 to 1.
DOWN, UP = 4.0, 0.3


def largest_singular_value(weight: torch.Tensor) -> float:
    """Of a linear's or convolution's ``weight`` (out, in, …) as a matrix (out, all of in), by power
    iteration in its own precision. No randomness: it starts at the sum of the rows."""
    matrix = weight.detach().flatten(1)
    row = _unit(matrix.T @ matrix.new_ones(len(matrix)))
    for _ in range(ROUNDS):
        row = _unit(matrix.T @ _unit(matrix @ row))
    return float(torch.linalg.vector_norm(matrix @ row, dtype=torch.float32))


def _unit(vector: torch.Tensor) -> torch.Tensor:
    """``vector`` at length 1, in its own precision; zeros stay."""
    return torch.nn.functional.normalize(vector.float(), dim=0).to(vector.dtype)


def whole(weight: torch.Tensor) -> float:
    """The scale of a ``weight`` that trains whole: of a matrix (out, in, …) its largest singular value, per
    number that adds up to one; of a vector the root of its mean square. Zeros have no scale: they count as
    of length 1."""
    length = largest_singular_value(weight) if weight.ndim > 1 else float(weight.detach().float().norm())
    return _rounded((length or 1.0) / sqrt(weight.numel()))


def low_rank(weight: torch.Tensor, rank: int) -> tuple[float, float]:
    """The scales of the factors beside a ``weight`` (out, in, …): of the lower (rank, in, …), which starts
    random with numbers of about 1 / sqrt(3 in), and the upper (out, rank), which starts at zero."""
    out, into = len(weight), weight[0].numel()
    started = 1 / sqrt(3)       # what the lower factor makes of an input of 1, root of the mean square
    up = (largest_singular_value(weight) or 1.0) * sqrt(into / out) / (started * rank)
    return _rounded(DOWN * started / into), _rounded(UP * up)


def _rounded(scale: float) -> float:
    return 2 ** (round(FINENESS * log2(scale)) / FINENESS) if isfinite(scale) else 1.0
