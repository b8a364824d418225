"""UNet deltas, kept under canonical names, put back, scaled, onto a base."""

from collections.abc import Iterator

import torch
from diffusers import UNet2DConditionModel

from ..attribute import Attribute
from ..attribute.tensors import differences
from ..errors import ESCDiffError
from ..model.names import unet_map
from .blocks import block_of


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
