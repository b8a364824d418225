"""A private copy of a UNet: trainable tensors are its own, frozen ones are shared, and the caller's model
never changes."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel

from .blocks import SCOPES, block_of


def private_copy(unet: UNet2DConditionModel, own: Iterable[str] = (),
                 changed: Mapping[str, torch.Tensor] | None = None) -> UNet2DConditionModel:
    """Build a UNet that shares ``unet``'s tensors except those named in ``own`` (fp32 clones) and ``changed``
    (replaced).

    Names are diffusers'. All parameters are frozen but the ones in ``own``.
    """
    own, changed = set(own), dict(changed or {})
    with init_empty_weights(include_buffers=False):
        copy = UNet2DConditionModel.from_config(unet.config)
    state = {name: changed.get(name, tensor) for name, tensor in unet.state_dict().items()}
    state.update({name: state[name].detach().float().clone() for name in own})
    copy.load_state_dict(state, assign=True)
    copy.eval().requires_grad_(False)
    for name, parameter in copy.named_parameters():
        parameter.requires_grad_(name in own)
    return copy


def tensors_of(unet: UNet2DConditionModel, blocks: Iterable[str], scope: str = "all") -> list[str]:
    """diffusers' names of the UNet's tensors that lie in ``blocks`` and in ``scope``, a row of
    blocks.SCOPES."""
    blocks, patterns = set(blocks), SCOPES[scope]
    return [
        n for n in unet.state_dict() if block_of(n) in blocks and any(fnmatchcase(n, p) for p in patterns)
    ]
