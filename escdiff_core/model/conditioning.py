"""What a UNet is told of the prompt: text states and, where the family has them, a pooled vector and the
picture's size."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel

CELL = 8       # pixels a side of a latent's cell, in every Stable Diffusion


@dataclass(frozen=True, eq=False)
class Conditioning:
    """``context`` (b, n, dim), text states for cross-attention. With SDXL also ``pooled`` (b, p), the whole
    prompt in one vector, and ``time_ids`` (b, 6): height and width before cropping, top and left of the crop,
    height and width wanted, in pixels (Podell et al. 2023, section 2.2); None takes the size of the latents
    at hand.
    """

    context: torch.Tensor
    pooled: torch.Tensor | None = None
    time_ids: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.context)

    def __getitem__(self, rows: slice | Sequence[int] | torch.Tensor) -> "Conditioning":
        """Some of the rows."""
        return self.each(lambda part: part[rows])

    def each(self, change) -> "Conditioning":
        """``change`` done to each of the tensors."""
        return Conditioning(
            *(None if part is None else change(part) for part in (self.context, self.pooled, self.time_ids))
        )

    def expand(self, rows: int) -> "Conditioning":
        """One row, or as many as there are, as ``rows`` of them."""
        return self.each(lambda part: part.expand(rows, *part.shape[1:]))

    def to(self, *place) -> "Conditioning":
        """On a device, or in a dtype."""
        return self.each(lambda part: part.to(*place))

    def slot(self, part: slice) -> "Conditioning":
        """The text states of the places ``part`` alone, with the rest."""
        return Conditioning(self.context[:, part], self.pooled, self.time_ids)

    def added(self, x: torch.Tensor) -> dict[str, torch.Tensor] | None:
        """What diffusers' UNet wants beside the text states for latents ``x`` (b, 4, h, w); None where it
        wants nothing."""
        if self.pooled is None:
            return None
        height, width = (CELL * side for side in x.shape[2:])
        ids = self.time_ids
        if ids is None:
            ids = torch.tensor([[height, width, 0, 0, height, width]], device=x.device)
        return {"text_embeds": self.pooled.to(x.dtype), "time_ids": ids.to(x.dtype).expand(len(x), -1)}


def joined(parts: Sequence[Conditioning]) -> Conditioning:
    """The rows of several, one after the other."""
    return _together(parts, lambda tensors: torch.cat(list(tensors)))


def chosen(mask: torch.Tensor, one: Conditioning, other: Conditioning) -> Conditioning:
    """Row by row, ``one`` where ``mask`` (b,) is true and the ``other`` elsewhere."""
    return _together(
        (one, other), lambda tensors: torch.where(mask.view(-1, *[1] * (tensors[0].ndim - 1)), *tensors)
    )


def pack(slots: Sequence[Conditioning]) -> Conditioning:
    """Lay the text states of several prompts for one picture side by side, (b, slots * n, dim); the rest is
    the first one's."""
    return Conditioning(torch.cat([s.context for s in slots], dim=1), slots[0].pooled, slots[0].time_ids)


def predict(
    unet: UNet2DConditionModel, x: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
) -> torch.Tensor:
    """The UNet's answer to noised latents ``x`` (b, 4, h, w) at ``timestep`` (() or (b,)): (b, 4, h, w)."""
    return unet(
        x, timestep, encoder_hidden_states=conditioning.context, added_cond_kwargs=conditioning.added(x)
    ).sample


def _together(parts: Sequence[Conditioning], how) -> Conditioning:
    columns = zip(*((p.context, p.pooled, p.time_ids) for p in parts), strict=True)
    return Conditioning(*(None if column[0] is None else how(column) for column in columns))
