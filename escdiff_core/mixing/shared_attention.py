"""StyleAligned (Hertz et al. 2024): self-attention shared with a reference picture, an appearance without any
learning."""

import torch
from diffusers import UNet2DConditionModel

from ..errors import ESCDiffError
from ..model.autoencoder import image_to_latents
from ..model.diffusion import DiffusionModel
from ..reference import Reference

SELF = ".attn1.processor"


class SharedAttention:
    """Self-attention in which every row also attends to the last one, the reference, with its statistics
    (AdaIN of Q and K)."""

    def __call__(self, attn, hidden_states: torch.Tensor, encoder_hidden_states=None, attention_mask=None,
                 *args, **kwargs):
        # (b, tokens, channels)
        q, k, v = (project(hidden_states) for project in (attn.to_q, attn.to_k, attn.to_v))
        q, k = aligned_to_last(q), aligned_to_last(k)
        k, v = (torch.cat([t, t[-1:].expand_as(t)], dim=1) for t in (k, v))
        q, k, v = (attn.head_to_batch_dim(t) for t in (q, k, v))
        out = attn.batch_to_head_dim(torch.bmm(attn.get_attention_scores(q, k), v))
        return attn.to_out[1](attn.to_out[0](out))


def aligned_to_last(x: torch.Tensor) -> torch.Tensor:
    """``x`` (b, tokens, channels) with the last row's mean and spread over the tokens."""
    mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True, correction=0) + 1e-5
    return (x - mean) / std * std[-1:] + mean[-1:]


def share_attention(unet: UNet2DConditionModel) -> None:
    """Let the self-attention of ``unet`` (a private copy) look at the last row of its batch."""
    unet.set_attn_processor(
        {name: SharedAttention() if name.endswith(SELF) else p for name, p in unet.attn_processors.items()}
    )


class Style:
    """A reference as an extra row of every UNet batch, noised to the timestep at hand."""

    def __init__(self, model: DiffusionModel, reference: Reference, seed: int = 0):
        self.size = reference.image.shape[:2]
        # (1, 4, h, w)
        self.latents = image_to_latents(model, reference.image[None])
        self.noise = torch.randn(self.latents.shape, generator=torch.Generator().manual_seed(seed)).to(
            self.latents
        )
        self.alphas = model.schedule.alphas_cumprod().to(self.latents)

    def beside(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """``x`` (b, 4, h, w) with the reference as its last row. Raises ESCDiffError for another size."""
        if x.shape[1:] != self.latents.shape[1:]:
            given, drawn = ([8 * n for n in reversed(s.shape[2:])] for s in (self.latents, x))
            raise ESCDiffError(
                f"the style picture is {given[0]} x {given[1]} pixels and the drawing {drawn[0]} x "
                f"{drawn[1]}; crop the picture to the shape of the drawing"
            )
        alpha = self.alphas[int(timestep)]
        return torch.cat([x, (alpha.sqrt() * self.latents + (1 - alpha).sqrt() * self.noise).to(x)])
