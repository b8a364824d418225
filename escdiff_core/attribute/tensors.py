"""The tensors of an attribute: which names and shapes are allowed, and what a delta means as differences of
weights.

A delta has one of two forms. ``full``: canonical tensor name → difference. ``lora``: for a module with
canonical name ``m``, ``m.lora_up.weight`` (out, r), ``m.lora_down.weight`` (r, in) and ``m.alpha`` (); for a
convolution (out, r, 1, 1) and (r, in, kh, kw). The difference of ``m.weight`` is ``alpha / r · up @ down``,
and alpha left out means r.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from ..errors import ESCDiffError

ENCODERS = ("clip_l", "clip_g", "clip_h")
MOST_TOKENS = 75  # places in a CLIP prompt between start and end
# of a token with vectors for every layer and stage; of the largest UNets, 70 layers in ten stages
MOST_VECTORS = 4096
UP, DOWN, ALPHA = ".lora_up.weight", ".lora_down.weight", ".alpha"
FULL = (".weight", ".bias")
# Only letters, digits, _ and single dots: no path can be hidden in a name.
CANONICAL = re.compile(
    r"(input_blocks|middle_block|output_blocks|time_embed|label_emb|out)(\.[A-Za-z0-9_]+)+"
)

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class LoraFactors:
    """One module's factors in fp32: ``up`` (out, r[, 1, 1]), ``down`` (r, in[, kh, kw]); ``scale`` is alpha /
    r."""

    up: torch.Tensor
    down: torch.Tensor
    scale: float

    def difference(self) -> torch.Tensor:
        """The difference of the module's weight, fp32 (out, in[, kh, kw])."""
        product = self.up.flatten(1) @ self.down.flatten(1)
        return (self.scale * product).reshape(len(self.up), *self.down.shape[1:])

    def channel_norms(self) -> torch.Tensor:
        """The L2 norm of each output channel of the difference, (out,), without making the difference."""
        up, down = self.up.flatten(1), self.down.flatten(1)
        return abs(self.scale) * ((up @ (down @ down.T)) * up).sum(1).clamp_min(0).sqrt()


def form_of(names) -> str:
    """``"none"`` for no names, ``"lora"`` if any is a LoRA factor, else ``"full"``."""
    if any(name.endswith((UP, DOWN, ALPHA)) for name in names):
        return "lora"
    return "full" if names else "none"


def check_embeddings(shapes: Shapes, most: int = MOST_VECTORS) -> None:
    """Raise ESCDiffError unless all are (n, dim) of a known text encoder, with the same n of at ``most``."""
    unknown = next((name for name in shapes if name not in ENCODERS), None)
    if unknown is not None:
        raise ESCDiffError(
            f"the token embedding is for {unknown[:80]!r}; known text encoders: {', '.join(ENCODERS)}"
        )
    wrong = next((name for name, shape in shapes.items() if len(shape) != 2 or 0 in shape), None)
    if wrong is not None:
        raise ESCDiffError(
            f"the token embedding of {wrong} has shape {tuple(shapes[wrong])}; needed: (tokens, width)"
        )
    counts = {shape[0] for shape in shapes.values()}
    if len(counts) > 1 or max(counts, default=1) > most:
        raise ESCDiffError(
            f"the token embeddings have {sorted(counts)} vectors; needed: the same number for every "
            f"text encoder, at most {most}"
        )


def check_delta(shapes: Shapes) -> None:
    """Raise ESCDiffError unless every name is canonical, the form is one of the two, and the shapes fit each
    other."""
    bad = next((name for name in shapes if not CANONICAL.fullmatch(name)), None)
    if bad is not None:
        raise ESCDiffError(
            f"{bad[:80]!r} is not the name of a Stable Diffusion UNet tensor; the file is damaged or "
            "hostile, or of another kind of model"
        )
    lora = form_of(shapes) == "lora"
    stray = next((name for name in shapes if not name.endswith((UP, DOWN, ALPHA) if lora else FULL)), None)
    if stray is not None:
        raise ESCDiffError(
            f"tensor {stray!r} does not fit: a delta holds either LoRA factors ({UP}, {DOWN}, {ALPHA}) "
            "or full differences (.weight, .bias), and never both"
        )
    empty = next((name for name, shape in shapes.items() if 0 in shape or not (lora or shape)), None)
    if empty is not None:
        raise ESCDiffError(
            f"tensor {empty!r} has shape {tuple(shapes[empty])}, which no weight has; the file is damaged"
        )
    for name in shapes if lora else ():
        _check_factor(name, shapes)


def lora_factors(delta: Mapping[str, torch.Tensor]) -> dict[str, LoraFactors]:
    """Return {canonical module name: factors} of a delta in LoRA form."""
    result = {}
    for module in sorted({module_of(name) for name in delta}):
        up, down = delta[module + UP].float(), delta[module + DOWN].float()
        rank = down.shape[0]
        alpha = float(delta[module + ALPHA]) if module + ALPHA in delta else rank
        result[module] = LoraFactors(up, down, alpha / rank)
    return result


def differences(delta: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (canonical tensor name, difference in fp32) of a delta in either form, one at a time to save
    memory.

    This is what a host adds to the base weights.
    """
    if form_of(delta) == "lora":
        yield from (
            (f"{module}.weight", factors.difference()) for module, factors in lora_factors(delta).items()
        )
    else:
        yield from ((name, tensor.float()) for name, tensor in delta.items())


def tensor_names(delta: Mapping[str, torch.Tensor]) -> set[str]:
    """The canonical names of the tensors that a delta of either form changes."""
    return {f"{module_of(name)}.weight" for name in delta} if form_of(delta) == "lora" else set(delta)


def channel_norms(delta: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """{canonical tensor name: L2 norm of each output channel (row) of its difference, fp32 (out,)}, for
    either form."""
    if form_of(delta) == "lora":
        return {
            f"{module}.weight": factors.channel_norms() for module, factors in lora_factors(delta).items()
        }
    return {name: tensor.float().reshape(len(tensor), -1).norm(dim=1) for name, tensor in delta.items()}


def module_of(name: str) -> str:
    """The canonical module that a tensor of a delta, in either form, belongs to."""
    return next(name.removesuffix(end) for end in (UP, DOWN, ALPHA, *FULL) if name.endswith(end))


def _check_factor(name: str, shapes: Shapes) -> None:
    module = module_of(name)
    up, down, alpha = (shapes.get(module + end) for end in (UP, DOWN, ALPHA))
    if up is None or down is None:
        raise ESCDiffError(f"the LoRA of {module!r} lacks one of its two factors; the file is damaged")
    fits = len(up) == len(down) and len(up) in (2, 4) and up[1] == down[0] and set(up[2:]) <= {1}
    if not fits:
        raise ESCDiffError(
            f"the LoRA factors of {module!r} do not fit each other: up {tuple(up)}, down "
            f"{tuple(down)}; needed: (out, rank) and (rank, in), the file is damaged"
        )
    if alpha is not None and alpha not in ((), (1,)):
        raise ESCDiffError(f"the LoRA alpha of {module!r} has shape {tuple(alpha)}; needed: one number")
