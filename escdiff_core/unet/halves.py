"""The two halves of a UNet's pass: what a frozen encoder saw once can be decoded again and again."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel


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
