"""Stage 5: the shape of one attribute and the appearance of another in one UNet evaluation per step."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F

from ..attribute import Attribute
from ..errors import ESCDiffError
from ..model.load import DiffusionModel
from ..model.sample import sample
from ..model.text import encode_prompts
from .delta import changed_tensors
from .filters import starting_word
from .private import private_copy
from .route import Route, derive_route, install, pack, without_tokens

log = logging.getLogger(__name__)
MIDDLES = ("shape", "appearance", "none")


@dataclass(frozen=True)
class Use:
    """An attribute in use: strength 0 to 2 (1 = as learned), active from ``start`` to ``end`` of the schedule (0 to 1)."""

    attribute: Attribute
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self):
        if not -4 <= self.strength <= 4:
            raise ESCDiffError(f"a strength of {self.strength} makes no sense; give -4 to 4, 1 is as learned, 0 is off")
        if not 0 <= self.start <= self.end <= 1:
            raise ESCDiffError(f"the schedule range {self.start} to {self.end} makes no sense; needed: 0 <= start <= end <= 1")


class Variant:
    """The UNet, route and prompts for one set of active attributes. Shares all unchanged tensors with the base."""

    def __init__(self, model: DiffusionModel, active: list[Use], everyone: list[Use], middle: str):
        self.model, self.active, self.everyone = model, active, everyone
        by_kind = {use.attribute.kind: use for use in active}
        main = by_kind.get("shape") or by_kind.get("concept")
        rider = by_kind.get("appearance")
        self.slots: list[list[Use]] = [[main] if main else []]      # slot 0 is the main prompt
        owners: list[tuple[str, ...]] = [main.attribute.blocks if main else ()]
        if rider:
            self.slots.append([rider])
            owners.append(rider.attribute.blocks)
        middle_slot, middle_owner = 0, main.attribute if main else None
        if middle == "appearance" and rider:
            middle_slot, middle_owner = 1, rider.attribute
        elif middle == "shape" and rider and not main:      # nobody to ask for: as it was learned, alone
            middle_slot, middle_owner = None, rider.attribute
        elif middle == "none" and main:
            middle_slot, middle_owner = len(self.slots), None
            self.slots.append([])
            owners.append(())
        self.route, contested = derive_route(owners, middle_slot)
        if contested:
            log.info("both attributes trained %s: both deltas add, the prompt is the smaller set's", ", ".join(contested))
        changed = changed_tensors(model.unet, [(u.attribute, u.strength) for u in active], middle_owner)
        self.unet = private_copy(model.unet, changed=changed) if changed or self.route.slots > 1 else model.unet
        install(self.unet, self.route)

    def states(self, prompt: str) -> torch.Tensor:
        """The packed text states of ``prompt``, (1, slots * 77, dim): each slot sees its own tokens, plain words for the rest."""
        return pack([self._slot_states(prompt, own) for own in self.slots])

    def _slot_states(self, prompt: str, own: list[Use]) -> torch.Tensor:
        tokens = {u.attribute.token: token_vectors(self.model, u) for u in own}
        words = {u.attribute.token: u.attribute.word for u in self.everyone if u.attribute.token not in tokens}
        return encode_prompts(self.model, [without_tokens(prompt, words)], tokens)


def token_vectors(model: DiffusionModel, use: Use) -> torch.Tensor:
    """The token's vectors (n, dim) at the attribute's strength: on the line from its plain word, which is strength 0.

    The line is one of directions: on the straight way between two words the norm would sink (see filters.merge).
    """
    vectors = use.attribute.embeddings["clip_l"].to(model.device).float()
    width = model.text_encoder.get_input_embeddings().weight.shape[1]
    if vectors.shape[-1] != width:
        raise ESCDiffError(f"the attribute's token is {vectors.shape[-1]} wide, this model's words are {width}; load the "
                           "model it was learned on")
    if use.strength == 1:
        return vectors
    word = starting_word(model, use.attribute.word).expand_as(vectors)
    norms = (v.norm(dim=-1, keepdim=True) for v in (word, vectors))
    norms = torch.lerp(*norms, min(max(use.strength, 0.0), 1.0))
    return F.normalize(torch.lerp(word, vectors, use.strength), dim=-1) * norms


class Mix:
    """Attributes put onto a model: draws pictures with diffusers, at the price of plain sampling.

    ``shape`` and ``appearance`` may each be None; without both it is plain text-to-image. The model stays untouched.
    Raises ESCDiffError when an attribute was learned on another base model.
    """

    def __init__(self, model: DiffusionModel, shape: Use | None = None, appearance: Use | None = None,
                 middle: str = "shape"):
        if middle not in MIDDLES:
            raise ESCDiffError(f"unknown owner of the middle block {middle!r}; known: {', '.join(MIDDLES)}")
        self.model, self.middle = model, middle
        for use, kinds in ((shape, ("shape", "concept")), (appearance, ("appearance",))):
            if use is not None and use.attribute.kind not in kinds:
                raise ESCDiffError(f"an attribute of kind {use.attribute.kind!r} was given as {kinds[0]}; "
                                   f"allowed there: {' or '.join(kinds)}")
        self.given = [u for u in (shape, appearance) if u is not None]
        for use in self.given:
            use.attribute.check_base(model.fingerprint)
        tokens = [u.attribute.token for u in self.given]
        if len(set(tokens)) < len(tokens):
            raise ESCDiffError(f"both attributes answer to the token {tokens[0]!r}; learn one of them with another --token")
        self.used = [u for u in self.given if u.strength != 0]
        self.variants: dict[tuple[bool, ...], Variant] = {}

    def variant(self, progress: float) -> Variant:
        """The UNet and route in force at ``progress`` (0 to 1) of the schedule."""
        key = tuple(u.start <= progress <= u.end for u in self.used)
        if key not in self.variants:
            active = [u for u, on in zip(self.used, key, strict=True) if on]
            self.variants[key] = Variant(self.model, active, self.given, self.middle)
        return self.variants[key]

    def draw(self, prompt: str, negative: str = "", count: int = 1, steps: int = 30, guidance_scale: float = 5.0,
             seed: int = 0, size: int | tuple[int, int] | None = None,
             progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """Draw ``count`` pictures of ``prompt``, float32 (count, h, w, 3); picture i has seed ``seed + i``."""
        total = self.model.schedule.num_train_timesteps
        marks = sorted({0.0, 1.0, *(v for u in self.used for v in (u.start, u.end))})
        middles = [*marks, *((a + b) / 2 for a, b in pairwise(marks))]
        needed = list(dict.fromkeys(self.variant(p) for p in middles))
        lengths = [v.route.slots for v in needed]
        offsets = dict(zip(needed, np.cumsum([0, *lengths[:-1]]).tolist(), strict=True))
        positive = pack([v.states(prompt) for v in needed])
        negatives = pack([v.states(negative) for v in needed])
        length = positive.shape[1] // sum(lengths)

        def unet_call(x: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
            variant = self.variant(1 - (float(timestep) + 1) / total)
            first = offsets[variant] * length
            own = context[:, first:first + variant.route.slots * length]
            return variant.unet(x, timestep, encoder_hidden_states=own).sample

        return sample(self.model, None, steps=steps, guidance_scale=guidance_scale, seed=seed, size=size,
                      progress=progress, encoder_hidden_states=positive.expand(count, -1, -1),
                      negative_hidden_states=negatives, unet_call=unet_call)


__all__ = ["MIDDLES", "Mix", "Route", "Use", "Variant", "token_vectors"]
