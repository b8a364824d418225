"""Muon (Jordan et al. 2024) for many matrices of few sizes: those of one size take their step as one batch.

The same step as ``torch.optim.Muon`` with ``adjust_lr_fn="match_rms_adamw"``, which goes through the matrices
one by one: a network of 350 small ones then waits longer for its optimiser than for its gradients on a GPU.
"""

import math
from collections.abc import Iterable

import torch

COEFFICIENTS = (3.4445, -4.775, 2.0315)
ITERATIONS = 5
RMS = 0.2             # of an update at ``lr`` 1, as AdamW's


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """Newton-Schulz: matrices (k, a, b) with singular values brought near 1, bf16."""
    x = matrices.to(torch.bfloat16)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / torch.linalg.vector_norm(x.float(), dim=(1, 2), keepdim=True).clamp_min(1e-7).to(x.dtype)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """``params``: matrices alone. Each update has AdamW's size at the same ``lr``; weight decay is
    decoupled."""

    def __init__(
        self, params: Iterable[torch.Tensor], lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """Take one step along the gradients' orthogonalised momentum (Nesterov)."""
        for group in self.param_groups:
            sizes: dict[tuple, list[torch.Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    sizes.setdefault(tuple(matrix.shape), []).append(matrix)
            for (rows, columns), matrices in sizes.items():
                for matrix in matrices:
                    if "momentum" not in self.state[matrix]:
                        self.state[matrix]["momentum"] = torch.zeros_like(matrix)
                grads = [m.grad for m in matrices]
                moving = [self.state[m]["momentum"] for m in matrices]
                torch._foreach_lerp_(moving, grads, 1 - group["momentum"])
                update = orthogonalised(torch.stack(torch._foreach_lerp(grads, moving, group["momentum"])))
                rate = group["lr"] * RMS * math.sqrt(max(rows, columns))
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(matrices, list(update.float().unbind()), alpha=-rate)
