"""The two halves of a UNet's pass: what a frozen encoder saw once can be decoded again and again."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel

from ..model.conditioning import Conditioning


@dataclass
class EncoderFeatures:
    """What the decoder needs: ``sample`` (b, c, h, w) after the middle, ``skips`` from fine to coarse,
    ``emb`` (b, e)."""

    sample: torch.Tensor
    skips: tuple[torch.Tensor, ...]
    emb: torch.Tensor

    def pick(self, index: torch.Tensor) -> "EncoderFeatures":
        """The rows ``index`` of a cached batch."""
        return EncoderFeatures(self.sample[index], tuple(s[index] for s in self.skips), self.emb[index])


def encode(unet: UNet2DConditionModel, x: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning,
           grad: bool = True) -> EncoderFeatures:
    """The UNet's input, down path and middle on noised latents ``x`` (b, 4, h, w); ``timesteps`` (b,).

    Together with :func:`decode` it is the UNet's own forward; ``grad=False`` keeps no graph, for a frozen
    encoder.
    """
    with nullcontext() if grad else torch.no_grad():
        context = conditioning.context
        emb = unet.time_embedding(unet.time_proj(timesteps).to(x.dtype))                 # (b, e)
        if (added := conditioning.added(x)) is not None:
            emb = emb + unet.get_aug_embed(emb=emb, encoder_hidden_states=context, added_cond_kwargs=added)
        h = unet.conv_in(x)
        skips = [h]
        for block in unet.down_blocks:
            h, outputs = block(hidden_states=h, temb=emb, **_reads(block, context))
            skips.extend(outputs)
        if unet.mid_block is not None:            # KOALA has none
            h = unet.mid_block(h, emb, **_reads(unet.mid_block, context))
    return EncoderFeatures(h, tuple(skips), emb)


def decode(unet: UNet2DConditionModel, features: EncoderFeatures, conditioning: Conditioning) -> torch.Tensor:
    """The UNet's up path and output on :func:`encode`'s features: the prediction, (b, 4, h, w)."""
    h, skips = features.sample, list(features.skips)
    for block in unet.up_blocks:
        count = len(block.resnets)
        skips, own = skips[:-count], tuple(skips[-count:])
        # The next skip says how large this block's output must be: latents whose side is no multiple of 8
        # round up going down.
        size = tuple(skips[-1].shape[2:]) if skips else None
        h = block(hidden_states=h, temb=features.emb, res_hidden_states_tuple=own, upsample_size=size,
                  **_reads(block, conditioning.context))
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(h)))


def _reads(block: torch.nn.Module, context: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}
