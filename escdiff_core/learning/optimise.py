"""The optimiser of a run: AdamW over weights, token and filter, and the average that an attribute keeps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from ..errors import ESCDiffError
from .half import Masters
from .recipes import Recipe


class Optimizer:
    """AdamW (Loshchilov and Hutter 2019) with a warm-up, clipped gradients and an average over the steps.

    ``weights``, ``token`` and ``filter`` train at the recipe's three rates, those of a weight and the token
    times what ``scale_of`` says of them; an empty one takes no part. ``masters`` holds weights in fp32 beside
    their half-precision copies (see half), None where all are fp32.

    The rate stays constant after the warm-up and the average takes the place of its decay (Polyak and
    Juditsky 1992), so that what has been learned is as good as it gets at every step: a run may be longer,
    stopped early, or an earlier snapshot picked.
    """

    def __init__(self, recipe: Recipe, weights: Sequence[torch.Tensor], token: torch.Tensor,
                 filter: Sequence[torch.Tensor], masters: Masters | None,
                 scale_of: Callable[[torch.Tensor], float] = lambda tensor: 1.0):
        self.recipe, self.masters = recipe, masters
        of_scale = {} if masters is None else {scale: [flat] for scale, flat in masters.flat.items()}
        for weight in weights:
            if masters is None or weight not in masters:
                of_scale.setdefault(scale_of(weight), []).append(weight)
        rates = [(tensors, recipe.lr_weights * scale) for scale, tensors in of_scale.items()]
        rates += ([token], recipe.lr_token * scale_of(token)), (filter, recipe.lr_filter)
        groups = [{"params": list(tensors), "lr": rate, "peak": rate} for tensors, rate in rates if tensors]
        self.adamw = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, fused=True)
        self.average = [t.detach().clone() for t in self.parameters()]

    def parameters(self) -> list[torch.Tensor]:
        """What trains, in the order in which it is kept."""
        return [p for group in self.adamw.param_groups for p in group["params"]]

    def values(self) -> list[torch.Tensor]:
        """What trains, without gradients."""
        return [p.detach() for p in self.parameters()]

    def begin(self, done: int) -> None:
        """Set the rates of the step that follows ``done`` others."""
        warm = min(1.0, (done + 1) / max(self.recipe.warmup_steps, 1))
        for group in self.adamw.param_groups:
            group["lr"] = group["peak"] * warm

    def step(self) -> None:
        """Move by the gradients."""
        if self.masters is not None:
            self.masters.collect()
        self._clip()
        self.adamw.step()

    def _clip(self, most: float = 1.0) -> None:
        """Bring the gradients to a norm of at most ``most``."""
        grads = [p.grad for p in self.parameters() if p.grad is not None]
        norm = torch.stack(torch._foreach_norm(grads)).norm()
        # a GPU is not asked: it would have to be waited for
        if norm.device.type != "cpu" or norm > most:
            torch._foreach_mul_(grads, (most / (norm + 1e-6)).clamp(max=1.0))

    def forget(self) -> None:
        """Drop the gradients: a step that failed leaves nothing for the next one to add to."""
        if self.masters is not None:
            self.masters.forget()
        self.adamw.zero_grad(set_to_none=True)

    def take_in(self, done: int) -> None:
        """Take the values after ``done`` steps into the average."""
        torch._foreach_lerp_(self.average, self.values(), 1 / (1 + self.recipe.average * (done - 1)))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While open, what trains has the values of the average."""
        live, trained = [p.clone() for p in self.values()], self.values()
        try:
            torch._foreach_copy_(trained, self.average)
            if self.masters is not None:
                self.masters.refresh()  # back with the next step
            yield
        finally:
            torch._foreach_copy_(trained, live)

    def state(self) -> dict[str, torch.Tensor]:
        """All that a later run needs: of each parameter its value, average and moments."""
        tensors = {}
        for i, parameter in enumerate(self.parameters()):
            tensors[f"{i}.value"], tensors[f"{i}.average"] = parameter.detach(), self.average[i]
            tensors |= {f"{i}.{key}": value for key, value in self.adamw.state[parameter].items()}
        return tensors

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from a ``state``. Raises ESCDiffError for one of other parameters."""
        shapes = {f"{i}.value": p.shape for i, p in enumerate(self.parameters())}
        if any(name not in tensors or tensors[name].shape != shape for name, shape in shapes.items()):
            raise ESCDiffError("what is to be gone on from trains other weights; begin anew")
        for i, parameter in enumerate(self.parameters()):
            own = {k.split(".", 1)[1]: t for k, t in tensors.items() if k.startswith(f"{i}.")}
            parameter.data.copy_(own.pop("value"))
            self.average[i].copy_(own.pop("average"))
            # copies: what safetensors hands out is a window into the file. On the device, where fused AdamW
            # keeps its step too
            self.adamw.state[parameter] = {k: t.to(parameter.device, copy=True) for k, t in own.items()}
