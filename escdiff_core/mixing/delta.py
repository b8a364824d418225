"""UNet deltas, kept under canonical names: what of each counts where several act, and all of them put,
scaled, onto a base."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from diffusers import UNet2DConditionModel

from ..attribute import Attribute
from ..attribute.tensors import UP, channel_norms, differences, module_of, tensor_names
from ..errors import ESCDiffError
from ..model.names import unet_map


def own_channels(attributes: Sequence[Attribute]) -> list[Attribute]:
    """The attributes as they act together: an output channel of a layer's tensor that several changed is
    one's alone.

    A channel goes to the attribute that changed it most, each change measured by that attribute's mean change
    of the tensor. A bias goes with its weight. UnZipLoRA (Liu et al. 2024) learns which columns are whose;
    here nothing is learned. An attribute that shares no tensor stays itself.
    """
    if len(attributes) < 2:
        return list(attributes)
    norms = [channel_norms(a.delta) for a in attributes]
    masks: list[dict[str, torch.Tensor]] = [{} for _ in attributes]
    shared = shared_tensors(attributes)
    for name, having in shared.items():
        weight = f"{module_of(name)}.weight"
        measured = weight if shared.get(weight) == having else name
        sizes = [norms[i][measured] for i in having]
        if len({len(norms[i][n]) for i in having for n in (name, measured)}) > 1:
            continue                                         # of another model: told where it meets the base
        # (out,), the first of equals
        winner = torch.stack([size / size.mean().clamp_min(1e-30) for size in sizes]).argmax(0)
        for place, i in enumerate(having):
            masks[i][name] = winner == place
    return [_masked(a, mask) if mask else a for a, mask in zip(attributes, masks, strict=True)]


def shared_tensors(attributes: Sequence[Attribute]) -> dict[str, list[int]]:
    """{canonical name of a tensor that several attributes change: which ones do}."""
    having: dict[str, list[int]] = {}
    for i, attribute in enumerate(attributes):
        for name in tensor_names(attribute.delta):
            having.setdefault(name, []).append(i)
    return {name: places for name, places in having.items() if len(places) > 1}


def _masked(attribute: Attribute, masks: Mapping[str, torch.Tensor]) -> Attribute:
    """The attribute without the output channels where its mask, (out,), is False."""
    delta = dict(attribute.delta)
    for name, mask in masks.items():
        # a channel of a LoRA is a row of its up
        at = name if name in delta else module_of(name) + UP
        delta[at] = delta[at] * mask.view(-1, *[1] * (delta[at].ndim - 1)).to(delta[at])
    return replace(attribute, delta=delta)


def named_differences(attribute: Attribute, base: UNet2DConditionModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the attribute's delta as (diffusers name, full difference in fp32), whichever form it was learned
    in.

    Raises ESCDiffError for a tensor that the base does not have in that size.
    """
    names = {c: n for n, c in unet_map(base.config).items()}
    shapes = {n: t.shape for n, t in base.state_dict().items()}
    for canonical, difference in differences(attribute.delta):
        name = names.get(canonical)
        if name is None or shapes[name].numel() != difference.numel():
            raise ESCDiffError(
                f"the attribute {attribute.token!r} changes {canonical} {tuple(difference.shape)}, "
                "which this model does not have; the file is damaged or of another model: learn it "
                "again"
            )
        yield name, difference.reshape(shapes[name])


def changed_tensors(
    base: UNet2DConditionModel, parts: Sequence[tuple[Attribute, float]]
) -> dict[str, torch.Tensor]:
    """The base's tensors with every attribute's delta added at its strength, by diffusers name, in the base's
    dtype.

    An attribute at strength 0 is left out, so that the result is the base, bit for bit.
    """
    state, acting = base.state_dict(), [part for part in parts if part[1] != 0]
    changed: dict[str, torch.Tensor] = {}
    last = {
        canonical: i for i, (attribute, _) in enumerate(acting) for canonical in tensor_names(attribute.delta)
    }
    canonical = unet_map(base.config)
    for i, (attribute, strength) in enumerate(acting):
        for name, difference in named_differences(attribute, base):
            before = changed.get(name, state[name].float())
            summed = before + strength * difference.to(before)
            # fp32 only while more is to come: of a large model all of it at once would not fit
            changed[name] = summed.to(state[name].dtype) if last[canonical[name]] == i else summed
    return changed
