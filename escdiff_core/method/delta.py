"""UNet deltas: taken from a tuned private copy under canonical names, and put back, scaled, onto a base."""

from collections.abc import Iterator, Mapping

import torch
from diffusers import UNet2DConditionModel

from ..attribute import Attribute
from ..attribute.tensors import differences
from ..errors import ESCDiffError
from ..model.names import unet_map
from .blocks import block_of
from .recipes import Recipe


def extract_delta(base: UNet2DConditionModel, weights: Mapping[str, torch.Tensor], recipe: Recipe) -> dict[str, torch.Tensor]:
    """What training changed, by canonical name, fp32 on the CPU: differences, or LoRA factors with their alpha."""
    canonical = unet_map(base.config)
    if recipe.form == "full":
        before = base.state_dict()
        return {canonical[n]: (w.detach() - before[n].float()).cpu() for n, w in weights.items()}
    delta = {}
    for name, factor in weights.items():
        module, _, part = name.rpartition(".lora_")
        place = canonical[f"{module}.weight"].removesuffix(".weight")
        delta[f"{place}.lora_{'down' if part.startswith('A') else 'up'}.weight"] = factor.detach().float().cpu()
        delta[f"{place}.alpha"] = torch.tensor(float(recipe.rank))
    return delta


def named_differences(attribute: Attribute, base: UNet2DConditionModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the attribute's delta as (diffusers name, full difference in fp32), whichever form it was learned in.

    Raises ESCDiffError for a tensor that the base does not have in that size.
    """
    names = {c: n for n, c in unet_map(base.config).items()}
    shapes = {n: t.shape for n, t in base.state_dict().items()}
    for canonical, difference in differences(attribute.delta):
        name = names.get(canonical)
        if name is None or shapes[name].numel() != difference.numel():
            raise ESCDiffError(f"the attribute {attribute.token!r} changes {canonical} {tuple(difference.shape)}, which "
                               "this model does not have; the file is damaged or of another model: learn it again")
        yield name, difference.reshape(shapes[name])


def changed_tensors(base: UNet2DConditionModel, parts: list[tuple[Attribute, float]],
                    middle_owner: Attribute | str | None = "all") -> dict[str, torch.Tensor]:
    """The base's tensors with every attribute's delta added at its strength, by diffusers name, in the base's dtype.

    ``middle_owner``: the one attribute whose delta of the middle block counts, None for nobody, ``"all"`` for every one.
    An attribute at strength 0 is left out, so that the result is the base, bit for bit.
    """
    state = base.state_dict()
    changed: dict[str, torch.Tensor] = {}
    for attribute, strength in parts:
        if strength == 0:
            continue
        for name, difference in named_differences(attribute, base):
            if block_of(name) == "mid_block" and middle_owner != "all" and attribute is not middle_owner:
                continue
            before = changed.get(name, state[name].float())
            changed[name] = before + strength * difference.to(before)
    return {name: tensor.to(state[name].dtype) for name, tensor in changed.items()}
