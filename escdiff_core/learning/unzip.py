"""Two LoRAs on one layer, learned together: each reads a prompt of its own and keeps output columns of its
own.

UnZipLoRA (Liu et al. 2024, arXiv 2412.04465): the base weights read the whole prompt, one LoRA what is to be
learned, the other the prompt with the plain word, so that the rest of the picture has somewhere to go.
Columns are shared out by how much the loss depends on them. Left out: the learned weight of each column, and
the separation by layers, which is SDXL's.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

# Steps in which all columns train and are scored: three times, as in the paper's 600; these 50 two CPU cores
# take in 15 s
OPENINGS = (range(10), range(20, 30), range(40, 50))
# of a layer's columns that each LoRA is given after an opening
SHARE = 0.1
OWN, OTHER = range(2)                                    # the LoRA that is kept, and the one for the rest
# text states side by side: of the base weights and of either LoRA
SLOTS = 3


class TwoLoRA(nn.Module):
    """``base`` (a linear) with two LoRAs of ``rank`` beside it; zero at first, like Hu et al. 2021.

    Where it ``reads`` text, its input is the text states of all three side by side, (b, 3 * 77, dim).
    """

    def __init__(self, base: nn.Linear, rank: int, reads: bool):
        super().__init__()
        self.base, self.reads = base, reads
        # Drawn on the CPU: a seed is the same factors on every device
        self.down = nn.ParameterList(nn.Parameter(torch.empty(rank, base.in_features)) for _ in (OWN, OTHER))
        self.up = nn.ParameterList(nn.Parameter(torch.zeros(base.out_features, rank)) for _ in (OWN, OTHER))
        for down in self.down:
            nn.init.kaiming_uniform_(down, a=5 ** 0.5)
        self.register_buffer("mask", torch.ones(2, base.out_features))       # the columns that train
        self.register_buffer("chosen", torch.zeros(2, base.out_features))    # a LoRA's own so far
        self.register_buffer("score", torch.zeros(2, base.out_features))
        self.to(base.weight.device)

    def kept(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The factors, (rank, in) and (out, rank), of the LoRA that is kept, on its own columns: all, until
        they are shared out."""
        own = self.chosen[OWN] if self.chosen.any() else torch.ones_like(self.chosen[OWN])
        return self.down[OWN], self.up[OWN] * own[:, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole, *parts = x.chunk(SLOTS, dim=1) if self.reads else (x, x, x)
        out = self.base(whole)
        for which, part in enumerate(parts):
            out = out + F.linear(F.linear(part, self.down[which]), self.up[which] * self.mask[which][:, None])
        return out

    @torch.no_grad()
    def after(self, step: int) -> None:
        """When ``step`` has been taken and its gradients are still there: score the columns, share them out
        when an opening ends.

        A column's score is the sum over its weights of weight times gradient, which the upper factor alone
        has too.
        """
        if any(step in opening for opening in OPENINGS):
            self.score += torch.stack([(up * up.grad).sum(1) for up in self.up])
        if any(step == opening[-1] for opening in OPENINGS):
            for which in (OWN, OTHER):          # the kept one chooses first; no column is both's
                free = self.score[which].abs().masked_fill(self.chosen.any(0), -1)
                count = min(max(round(SHARE * len(free)), 1), int((free >= 0).sum()))
                self.chosen[which, free.topk(count).indices] = 1
            self.score.zero_()
            self.mask.copy_(self.chosen)
        if any(step + 1 == opening[0] for opening in OPENINGS):
            self.mask.fill_(1)


def unzip(unet: nn.Module, linears: Iterable[str], rank: int) -> dict[str, TwoLoRA]:
    """Put two LoRAs beside each of ``linears`` of a private UNet; returns them by the linear's name."""
    made = {}
    for name in linears:
        parent, _, child = name.rpartition(".")
        made[name] = TwoLoRA(unet.get_submodule(name), rank, name.endswith((".attn2.to_k", ".attn2.to_v")))
        setattr(unet.get_submodule(parent), child, made[name])
    return made
