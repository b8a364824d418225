"""A text encoder and its words, and which of its layers the UNet reads."""

from dataclasses import dataclass

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from .conditioning import Conditioning


@dataclass(frozen=True, eq=False)
class TextTower:
    """One of a model's text encoders. ``name``: as attribute files call it (clip_l, clip_g, clip_h).

    ``reads``: the number of the hidden state that the UNet reads, from the end (-2: the last layer but one);
    None: the last layer behind the final norm. ``pooled``: whether the encoder's projection of the end word
    is the model's pooled vector.
    """

    name: str
    encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    reads: int | None = None
    pooled: bool = False

    @property
    def table(self) -> torch.nn.Embedding:
        """The embedding of the words, (vocabulary, ``width``)."""
        return self.encoder.get_input_embeddings()

    @property
    def width(self) -> int:
        return self.table.weight.shape[1]

    @property
    def places(self) -> int:
        """Words of one prompt, with start, end and padding (77)."""
        return self.encoder.config.max_position_embeddings

    def read(self, ids: torch.Tensor) -> Conditioning:
        """What the encoder makes of word numbers (b, 77): states (b, 77, width), and (b, p) where it is the
        pooled one."""
        made = self.encoder(input_ids=ids, output_hidden_states=self.reads is not None)
        states = made.last_hidden_state if self.reads is None else made.hidden_states[self.reads]
        return Conditioning(states, made.text_embeds if self.pooled else None)


def side_by_side(parts: list[Conditioning]) -> Conditioning:
    """What several towers make of the same prompts as one: states along the width, and the one pooled
    vector."""
    if len(parts) == 1:
        return parts[0]
    pooled = [p.pooled for p in parts if p.pooled is not None]
    return Conditioning(torch.cat([p.context for p in parts], dim=-1), pooled[0] if pooled else None)
