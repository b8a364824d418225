"""Half-precision weights beside fp32 masters: what autocast would cast again in every step is cast once."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn

# whose products autocast computes in half precision; norms take fp32 weights as they are
LAYERS = (nn.Linear, nn.Conv2d)


def halve(module: nn.Module, dtype: torch.dtype = torch.bfloat16,
          everything: bool = False) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """Give the linears and convolutions of a private ``module`` (or ``everything`` in it) weights in
    ``dtype``.

    The old ones are left as they are. Those that train are returned with their copies: (master, copy) of
    each, for Masters.
    """
    pairs = []
    for path, layer in module.named_modules():
        # what computes a weight does so in fp32
        if "parametrizations" in path or not (everything or type(layer) in LAYERS):
            continue
        for name, weight in list(layer.named_parameters(recurse=False)):
            half = nn.Parameter(weight.detach().to(dtype), requires_grad=weight.requires_grad)
            setattr(layer, name, half)
            if weight.requires_grad:
                pairs.append((weight, half))
    return pairs


def shared_copy(module: nn.Module) -> nn.Module:
    """A copy of ``module`` that shares its tensors: what is put in their place in the copy, the original does
    not see."""
    return copy.deepcopy(module, {id(t): t for t in (*module.parameters(), *module.buffers())})


class Masters:
    """The fp32 ``masters`` of halved weights, laid end to end: a few tensors for the optimiser where there
    were hundreds, ``flat``, one for each of the scales that ``scale_of`` gives a master.

    Each master becomes a window of one. Before a step ``refresh`` brings the halves up to date, after the way
    back ``collect`` makes fp32 gradients of theirs.
    """

    def __init__(self, pairs: Sequence[tuple[nn.Parameter, nn.Parameter]],
                 scale_of: Callable[[nn.Parameter], float] = lambda master: 1.0):
        masters, self.halves = zip(*sorted(pairs, key=lambda pair: scale_of(pair[0])), strict=True)
        values = torch.cat([m.detach().flatten().float() for m in masters])
        self.gradient = torch.zeros_like(values)
        sizes, of_scale = [m.numel() for m in masters], {}
        for master in masters:
            of_scale[scale_of(master)] = of_scale.get(scale_of(master), 0) + master.numel()
        stretches = [whole.split(list(of_scale.values())) for whole in (values, self.gradient)]
        self.flat = dict(zip(of_scale, map(nn.Parameter, stretches[0]), strict=True))
        self.flat_gradients = stretches[1]
        self.windows, self.gradients = (
            [part.view(m.shape) for part, m in zip(whole.split(sizes), masters, strict=True)]
            for whole in (values, self.gradient)
        )
        for master, window in zip(masters, self.windows, strict=True):
            master.data = window
        self.masters = set(map(id, masters))

    def __contains__(self, weight: nn.Parameter) -> bool:
        return id(weight) in self.masters

    def refresh(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.halves, self.windows)

    def collect(self) -> None:
        """Move the halves' gradients to ``flat``. A half without one has a gradient of zero."""
        having = [
            (to, half.grad)
            for to, half in zip(self.gradients, self.halves, strict=True)
            if half.grad is not None
        ]
        if len(having) < len(self.halves):
            self.gradient.zero_()
        if having:
            torch._foreach_copy_(*map(list, zip(*having, strict=True)))
        self.forget()
        for flat, gradient in zip(self.flat.values(), self.flat_gradients, strict=True):
            flat.grad = gradient

    def forget(self) -> None:
        """Drop the halves' gradients, those of a step that failed as well."""
        for half in self.halves:
            half.grad = None
