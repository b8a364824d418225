"""The forms in which weights train, as a table: whole, low-rank factors, offsets that a small network
predicts, or two LoRAs."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import nn
from torch.nn.utils import parametrize

from ..errors import ESCDiffError
from ..model.names import unet_map
from ..unet.blocks import block_of
from ..unet.copy import private_copy
from . import rates
from .unzip import SLOTS, unzip

# of the one vector from which all weight offsets are predicted (the weight offsets of E4T, Gal et al. 2023)
HYPER_WIDTH = 32


@dataclass(frozen=True)
class Trained:
    """A private UNet in training: what the optimiser moves, and ``delta(blocks)``, their change: canonical
    names, fp32, CPU.

    ``slots``: how many text states its layers cut apart themselves, 0: none. ``after`` is told the number of
    each step that was taken, while its gradients are there; ``state`` is what it remembers from step to step.
    ``scales()``: what a relative rate is a share of, for each parameter (see rates); 1 where none is named,
    as for offsets, which are shares themselves.
    """

    unet: UNet2DConditionModel
    parameters: dict[str, nn.Parameter]
    delta: Callable[[Collection[str]], dict[str, torch.Tensor]]
    slots: int = 0
    after: Callable[[int], None] = lambda step: None
    state: Mapping[str, torch.Tensor] = field(default_factory=dict)
    scales: Callable[[], Mapping[str, float]] = dict


def train_full(base: UNet2DConditionModel, names: Sequence[str], rank: int, seed: int) -> Trained:
    """Train the tensors ``names`` themselves."""
    unet, canonical, before = private_copy(base, own=names), unet_map(base.config), base.state_dict()
    weights = {n: p for n, p in unet.named_parameters() if p.requires_grad}
    return Trained(
        unet, weights, lambda blocks: {
            canonical[n]: (w.detach() - before[n].float()).cpu()
            for n, w in weights.items()
            if block_of(n) in blocks
        }, scales=lambda: {n: rates.whole(before[n]) for n in weights})


def train_lora(base: UNet2DConditionModel, names: Sequence[str], rank: int, seed: int) -> Trained:
    """Train low-rank factors beside the linears and convolutions among ``names`` (Hu et al. 2021, through
    peft).

    Alpha equals the rank, so that strength scales the product once.
    """
    unet, canonical = private_copy(base), unet_map(base.config)
    targets = [n.removesuffix(".weight") for n in _matrices(unet, names)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights=True))
    factors = {n.replace(".default", ""): p for n, p in unet.named_parameters() if "lora_" in n}
    for parameter in factors.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)

    def delta(blocks: Collection[str]) -> dict[str, torch.Tensor]:
        made = {}
        for module in (n.removesuffix(".lora_A.weight") for n in factors if n.endswith(".lora_A.weight")):
            if block_of(f"{module}.weight") in blocks:
                place = canonical[f"{module}.weight"].removesuffix(".weight")
                made |= _lora(place, factors[f"{module}.lora_A.weight"], factors[f"{module}.lora_B.weight"])
        return made

    return Trained(unet, factors, delta, scales=lambda: _factor_scales(
        base, targets, rank, ("lora_A.weight",), ("lora_B.weight",)))


def _factor_scales(base: UNet2DConditionModel, modules: Sequence[str], rank: int, lower: Sequence[str],
                   upper: Sequence[str]) -> dict[str, float]:
    """The scales of LoRAs' factors beside ``modules``, whose names end in ``lower`` and ``upper``."""
    made = {}
    for module in modules:
        down, up = rates.low_rank(base.get_submodule(module).weight, rank)
        made |= {f"{module}.{name}": down for name in lower} | {f"{module}.{name}": up for name in upper}
    return made


def _lora(place: str, down: torch.Tensor, up: torch.Tensor) -> dict[str, torch.Tensor]:
    """A layer's low-rank factors as an attribute keeps them; alpha is the rank."""
    parts = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(float(len(down)))}
    return {f"{place}.{k}": v.detach().to("cpu", torch.float32, copy=True) for k, v in parts.items()}


def train_two_loras(base: UNet2DConditionModel, names: Sequence[str], rank: int, seed: int) -> Trained:
    """Train two LoRAs beside each linear among ``names``, each for its own part of the picture, and keep the
    first's."""
    unet, canonical = private_copy(base), unet_map(base.config)
    linears = [n.removesuffix(".weight") for n in _matrices(unet, names)]
    linears = [n for n in linears if isinstance(unet.get_submodule(n), nn.Linear)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = unzip(unet, linears, rank)

    def delta(blocks: Collection[str]) -> dict[str, torch.Tensor]:
        made = {}
        for name, layer in layers.items():
            if block_of(f"{name}.weight") in blocks:
                made |= _lora(canonical[f"{name}.weight"].removesuffix(".weight"), *layer.kept())
        return made

    def after(step: int) -> None:
        for layer in layers.values():
            layer.after(step)

    factors = {
        f"{n}.{k}": p for n, layer in layers.items() for k, p in layer.named_parameters() if p.requires_grad
    }
    state = {f"{n}.{k}": v for n, layer in layers.items() for k, v in layer.named_buffers()}
    return Trained(unet, factors, delta, SLOTS if layers else 0, after, state, lambda: _factor_scales(
        base, linears, rank, ("down.0", "down.1"), ("up.0", "up.1")))


class _Offset(nn.Module):
    """W to W * (1 + row x column): the two vectors are linear in a code that all weights share; zero at
    first."""

    def __init__(self, code: nn.Parameter, rows: int, columns: int):
        super().__init__()
        self.code = [code]                       # in a list: a parameter of the run, not of every weight
        self.row, self.column = nn.Linear(len(code), rows), nn.Linear(len(code), columns)
        nn.init.zeros_(self.row.weight)
        nn.init.zeros_(self.row.bias)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        with torch.autocast(weight.device.type, enabled=False):       # in bf16, 1 plus a small offset is 1
            grid = torch.outer(self.row(self.code[0]), self.column(self.code[0]))
            return weight + weight * grid.view(*grid.shape, *[1] * (weight.ndim - 2))


def train_offsets(base: UNet2DConditionModel, names: Sequence[str], rank: int, seed: int) -> Trained:
    """Train a small network that predicts an offset for every matrix among ``names``; the weights themselves
    stay."""
    matrices = _matrices(base, names)
    # what is added to one in half precision would be rounded away
    own = () if base.dtype == torch.float32 else matrices
    unet, canonical, before = private_copy(base, own).requires_grad_(False), unet_map(
        base.config), base.state_dict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        code = nn.Parameter((torch.randn(HYPER_WIDTH) / HYPER_WIDTH ** 0.5).to(base.device))
        offsets = {n: _Offset(code, *before[n].shape[:2]) for n in matrices}
    for name, offset in offsets.items():
        parametrize.register_parametrization(
            unet.get_submodule(name.removesuffix(".weight")), "weight", offset.to(base.device)
        )
    parameters = {
        "code": code,
        **{f"{n}.{k}": p for n, o in offsets.items() for k, p in o.named_parameters()},
    }

    def delta(blocks: Collection[str]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return {canonical[n]: (o(before[n].float()) - before[n].float()).cpu() for n, o in offsets.items()
                    if block_of(n) in blocks}

    return Trained(unet, parameters, delta)


def _matrices(unet: UNet2DConditionModel, names: Sequence[str]) -> list[str]:
    """Those of ``names`` that are weights of linears and convolutions. Raises ESCDiffError if there are
    none."""
    wanted = {n.removesuffix(".weight") for n in names if n.endswith(".weight")}
    found = [
        f"{n}.weight"
        for n, m in unet.named_modules()
        if n in wanted and isinstance(m, (nn.Linear, nn.Conv2d))
    ]
    if not found:
        raise ESCDiffError(
            f"none of the {len(names)} tensors that the recipe trains of this model is the weight of a "
            "linear or a convolution, which is all that a LoRA or an offset can change; take another "
            "preset or form 'full'"
        )
    return found


FORMS: Mapping[str, Callable[[UNet2DConditionModel, Sequence[str], int, int], Trained]] = {
    "full": train_full, "lora": train_lora, "offsets": train_offsets, "two-loras": train_two_loras,
}
