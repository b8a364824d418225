"""A private copy of a UNet: trainable tensors are its own, frozen ones are shared, and the caller's model never changes."""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel

from .blocks import SCOPES, block_of


def private_copy(unet: UNet2DConditionModel, own: Iterable[str] = (),
                 changed: Mapping[str, torch.Tensor] | None = None) -> UNet2DConditionModel:
    """Build a UNet that shares ``unet``'s tensors except those named in ``own`` (fp32 clones) and ``changed`` (replaced).

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
    """diffusers' names of the UNet's tensors that lie in ``blocks`` and in ``scope``, a row of blocks.SCOPES."""
    blocks, patterns = set(blocks), SCOPES[scope]
    return [n for n in unet.state_dict() if block_of(n) in blocks and any(fnmatchcase(n, p) for p in patterns)]


@dataclass
class EncoderFeatures:
    """What the decoder needs: ``sample`` (b, c, h, w) after the middle, ``skips`` from fine to coarse, ``emb`` (b, e)."""

    sample: torch.Tensor
    skips: tuple[torch.Tensor, ...]
    emb: torch.Tensor

    def pick(self, index: torch.Tensor) -> "EncoderFeatures":
        """The rows ``index`` of a cached batch."""
        return EncoderFeatures(self.sample[index], tuple(s[index] for s in self.skips), self.emb[index])


def encode(unet: UNet2DConditionModel, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor,
           grad: bool = True) -> EncoderFeatures:
    """The UNet's input, down path and middle on noised latents ``x`` (b, 4, h, w); ``timesteps`` (b,).

    Together with :func:`decode` it is the UNet's own forward; ``grad=False`` keeps no graph, for a frozen encoder.
    """
    with nullcontext() if grad else torch.no_grad():
        emb = unet.time_embedding(unet.time_proj(timesteps).to(x.dtype))                 # (b, e)
        h = unet.conv_in(x)
        skips = [h]
        for block in unet.down_blocks:
            attends = {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}
            h, outputs = block(hidden_states=h, temb=emb, **attends)
            skips.extend(outputs)
        h = unet.mid_block(h, emb, encoder_hidden_states=context)
    return EncoderFeatures(h, tuple(skips), emb)


def decode(unet: UNet2DConditionModel, features: EncoderFeatures, context: torch.Tensor) -> torch.Tensor:
    """The UNet's up path and output on :func:`encode`'s features: the prediction, (b, 4, h, w)."""
    h, skips = features.sample, list(features.skips)
    for block in unet.up_blocks:
        count = len(block.resnets)
        skips, own = skips[:-count], tuple(skips[-count:])
        attends = {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}
        # The next skip says how large this block's output must be: latents whose side is no multiple of 8 round up going down.
        size = tuple(skips[-1].shape[2:]) if skips else None
        h = block(hidden_states=h, temb=features.emb, res_hidden_states_tuple=own, upsample_size=size, **attends)
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(h)))
