"""What each slot of the route reads in training: the blocks that learn see the token, the others mostly its
plain word."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..model.conditioning import Conditioning, chosen, joined, pack
from ..model.diffusion import DiffusionModel
from ..model.text import Vectors, encode_prompts
from ..unet.blocks import block_of
from ..unet.route import Route, without_tokens
from ..unet.tokens import by_layer, by_stage, cross_blocks, named_rows, row_name, stage_of


class TrainingTexts:
    """Encodes training prompts for the slots of its ``route``: (b, slots * 77, dim).

    Slot 0 is that of the blocks that do not learn: they read ``plain`` for the token in ``plain_share`` of
    the rows. The others are the learning blocks', one for all or, with a ``layout`` by layer, one for each
    with cross-attention. Where there is no other block, or nothing is hidden from it, slot 0 is a learning
    one. ``apart``: the learning layers read so many prompts at once: the whole, the token alone, the whole
    with the plain word (see unzip.TwoLoRA).
    """

    def __init__(self, model: DiffusionModel, blocks: Sequence[str], plain: str, plain_share: float,
                 layout: str = "one", apart: int = 0):
        names = list(model.unet.state_dict())
        self.model, self.plain, self.plain_share, self.layout, self.apart = (
            model,
            plain,
            plain_share,
            layout,
            apart,
        )
        self.hides = bool({block_of(n) for n in names} - set(blocks)) and plain_share > 0 and not apart
        # those with vectors of their own
        self.layers = cross_blocks(names) if by_layer(layout) else ()
        own = [(b, row) for row, b in enumerate(self.layers) if b in blocks or not self.hides]
        # of the token's vectors, for each learning slot
        self.rows = [row for _, row in own] or [0]
        first = int(self.hides)
        layers = {b: first + i for i, (b, _) in enumerate(own)} or (
            dict.fromkeys(blocks, 1) if self.hides else {}
        )
        self.route = Route(apart or first + len(self.rows), {b: s for b, s in layers.items() if s})
        self.known: dict[str, Conditioning] = {}

    def plain_states(self, prompts: Sequence[str], tokens: Sequence[str]) -> Conditioning:
        """States (b, 77, dim) of the prompts with the plain word in the place of every one of ``tokens``.

        They never change, so each prompt's are encoded once.
        """
        texts = [without_tokens(p, dict.fromkeys(tokens, self.plain)) for p in prompts]
        new = [t for t in dict.fromkeys(texts) if t not in self.known]
        if new:
            with torch.no_grad():
                made = encode_prompts(self.model, new)
            self.known.update((text, made[i:i + 1]) for i, text in enumerate(new))
        return joined([self.known[t] for t in texts])

    def __call__(self, rng: np.random.Generator, prompts: Sequence[str], tokens: Mapping[str, Vectors],
                 timesteps: torch.Tensor, alone: Sequence[str] = ()) -> Conditioning:
        """The packed states of ``prompts`` at ``timesteps`` (b,); gradients flow to the vectors of
        ``tokens``.

        ``alone``: the prompts that name nothing but the token, for what is learned apart.
        """
        # asked once, and where it counts: a GPU has to be waited for
        stages = ([self.stage(t) for t in timesteps.tolist()] if by_stage(self.layout) else
                  [0] * len(prompts))
        slots = [self._texts(texts, list(tokens), stages, row) for row in self.rows
                 for texts in ((prompts, alone) if self.apart else (prompts,))]
        unique = list(dict.fromkeys(text for texts in slots for text in texts))
        states = encode_prompts(self.model, unique, tokens if self.layout == "one" else named_rows(tokens))
        place = {text: i for i, text in enumerate(unique)}
        own = [states[[place[text] for text in texts]] for texts in slots]
        if self.apart:
            return pack([*own, self.plain_states(prompts, list(tokens))])
        if not self.hides:
            return pack(own)
        plain = self.plain_states(prompts, list(tokens))
        hide = torch.from_numpy(rng.random(len(prompts)) < self.plain_share).to(plain.context.device)
        return pack([chosen(hide, plain, own[0]), *own])

    def _texts(
        self, prompts: Sequence[str], tokens: Sequence[str], stages: Sequence[int], row: int
    ) -> Sequence[str]:
        """The prompts as one slot reads them: a token with several vectors under the name of the one that
        counts there."""
        if self.layout == "one":
            return prompts
        firsts = [stage * max(len(self.layers), 1) for stage in stages]
        return [
            without_tokens(p, {n: row_name(n, r + row) for n in tokens})
            for p, r in zip(prompts, firsts, strict=True)
        ]

    def stage(self, timestep: float) -> int:
        """Which stage's vectors count at a timestep; 0 where they are the same for all."""
        total = self.model.schedule.num_train_timesteps
        return stage_of(timestep, total) if by_stage(self.layout) else 0

    def nothing_learned(self, prompts: Sequence[str], tokens: Sequence[str]) -> Conditioning:
        """The packed states where every slot reads the plain word."""
        return pack([self.plain_states(prompts, tokens)] * self.route.slots)
