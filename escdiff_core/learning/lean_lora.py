"""A LoRA computed within its layer's own product, for training on a CPU; the same function to rounding.

Beside the layer its two thin products, and the sum of what they and the layer make, take a fifth of a small
model's step. Here the change is added to the weight, and only the factors' gradients are thin products; the
weight's own, as large as the layer's, is never computed.
"""

import torch
import torch.nn.functional as F
from peft.tuners import lora
from torch import nn

LARGE = 1 << 20                 # numbers of a merged weight: to keep more costs memory, to make it again time
_FORWARD = torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
_BACKWARD = torch.amp.custom_bwd(device_type="cpu")
_backward = torch.ops.aten.convolution_backward


def _merged(weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """W + B A, in the shape of W."""
    return torch.addmm(weight.flatten(1), up.flatten(1), down.flatten(1)).view(weight.shape)


def _keep(ctx, x: torch.Tensor, weight: torch.Tensor, merged: torch.Tensor, *factors: torch.Tensor) -> None:
    """For the way back: the merged weight, or of a LARGE one what it is made of again there."""
    ctx.again = merged.numel() > LARGE
    ctx.save_for_backward(x, weight if ctx.again else merged, *factors)


def _kept(ctx) -> tuple[torch.Tensor, ...]:
    """The input, the merged weight, and the lower and the upper factor."""
    x, weight, down, up = ctx.saved_tensors
    return x, _merged(weight, down, up) if ctx.again else weight, down, up


class _Linear(torch.autograd.Function):
    """x (W + B A)ᵀ + b (Hu et al. 2021) for x (…, in), W (out, in), A (rank, in), B (out, rank)."""

    @staticmethod
    @_FORWARD
    def forward(ctx, x, weight, bias, down, up):
        merged = _merged(weight, down, up)
        _keep(ctx, x, weight, merged, down, up)
        return F.linear(x, merged, bias)

    @staticmethod
    @_BACKWARD
    def backward(ctx, grad):
        x, merged, down, up = _kept(ctx)
        to_x = grad @ merged if ctx.needs_input_grad[0] else None
        grad, x = grad.flatten(0, -2), x.flatten(0, -2)
        return to_x, None, None, (grad @ up).T @ x, grad.T @ (x @ down.T)


class _Conv2d(torch.autograd.Function):
    """The same for pictures (b, in, h, w): A (rank, in, k, k), B (out, rank, 1, 1)."""

    @staticmethod
    @_FORWARD
    def forward(ctx, x, weight, bias, down, up, stride, padding):
        merged = _merged(weight, down, up)
        _keep(ctx, x, weight, merged, down, up)
        ctx.steps = stride, padding
        return F.conv2d(x, merged, bias, stride, padding)

    @staticmethod
    @_BACKWARD
    def backward(ctx, grad):
        x, merged, down, up = _kept(ctx)

        def back(grad, x, weight, wanted, stride, padding):
            """By x and by the weight, whichever is ``wanted``."""
            return _backward(grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1,
                             (*wanted, False))

        to_x = back(grad, x, merged, (True, False), *ctx.steps)[0] if ctx.needs_input_grad[0] else None
        to_down = back(F.conv2d(grad, up.transpose(0, 1)), x, down, (False, True), *ctx.steps)[1]
        to_up = back(grad, F.conv2d(x, down, None, *ctx.steps), up, (False, True), (1, 1), (0, 0))[1]
        return to_x, None, None, to_down, to_up, None, None


def product(layer: nn.Module, rows: torch.Tensor, part: slice = slice(None)) -> torch.Tensor:
    """``part`` of the outputs of a linear or 1x1 convolution, with a lean LoRA or without, of ``rows``
    (b, n, in)."""
    base = getattr(layer, "base_layer", layer)
    weight, bias = base.weight.flatten(1)[part], None if base.bias is None else base.bias[part]
    if base is layer:
        return F.linear(rows, weight, bias)
    down, up = (factor.flatten(1) for factor in factors(layer))
    return _Linear.apply(rows, weight, bias, down, up[part])


def factors(layer: lora.LoraLayer) -> tuple[nn.Parameter, nn.Parameter]:
    """The lower and the upper factor of a layer's one LoRA."""
    [name] = layer.active_adapters
    return layer.lora_A[name].weight, layer.lora_B[name].weight


class LeanLoRALinear(lora.Linear):
    """With the one LoRA that forms.train_lora gives a layer: no dropout, alpha its rank."""

    def forward(self, x, *args, **kwargs):
        return product(self, x)


class LeanLoRAConv2d(lora.Conv2d):
    """With the one LoRA that forms.train_lora gives a layer: no dropout, alpha its rank."""

    def forward(self, x, *args, **kwargs):
        base = self.base_layer
        return _Conv2d.apply(x, base.weight, base.bias, *factors(self), base.stride, base.padding)
