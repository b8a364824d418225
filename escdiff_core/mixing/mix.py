"""Stage 5: the shape of one attribute and the appearance of another in one UNet evaluation per step."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import ESCDiffError
from ..model.autoencoder import image_to_latents
from ..model.conditioning import Conditioning, joined, pack, predict
from ..model.diffusion import DiffusionModel
from ..model.sample import Drawing, draw
from ..model.text import Words
from ..model.weighted import encode_weighted
from ..reference import Reference
from ..unet.copy import private_copy
from ..unet.route import install, without_tokens
from ..unet.tokens import cross_blocks, row_name
from ..unet.words import one_vector
from .delta import changed_tensors
from .plan import Use, check_uses, plain_words, plan_mix, schedule_parts
from .shared_attention import Style, share_attention


class Variant:
    """The UNet, route and prompts for one set of active attributes.

    Shares all unchanged tensors with the base, and through ``merged`` the changed ones with variants of the
    same deltas.
    """

    def __init__(self, model: DiffusionModel, active: list[Use], everyone: list[Use], middle: str,
                 overlap: str, shares: bool, merged: dict[tuple, dict[str, torch.Tensor]]):
        self.model, self.active, self.everyone = model, active, everyone
        self.plan = plan_mix(active, middle, cross_blocks(model.unet.state_dict()), overlap)
        self.route = self.plan.route
        same = self.plan.weights
        if same not in merged:
            merged[same] = changed_tensors(
                model.unet, [(u.attribute, u.strength) for u in self.plan.acting()]
            )
        changed = merged[same]
        self.unet = private_copy(model.unet,
                                 changed=changed) if changed or shares or self.route.slots > 1 else model.unet
        install(self.unet, self.route)
        if shares:
            share_attention(self.unet)

    def texts(self, prompt: str) -> list[str]:
        """``prompt`` as each slot reads it: its own tokens stay, the others are their plain words."""
        return [without_tokens(prompt, plain_words(self.everyone, own)) for own in self.plan.slots]

    def states(self, prompt: str) -> Conditioning:
        """The packed text states of ``prompt``, (1, slots * 77, dim)."""
        return packed_states([self], [prompt])


def packed_states(variants: Sequence[Variant], prompts: Sequence[str]) -> Conditioning:
    """The text states of ``prompts`` for every slot of ``variants`` side by side, (b, n * 77, dim), encoded
    in one batch."""
    slots, tokens, towers = [], {}, variants[0].model.towers
    for variant in variants:
        for texts, own in zip(
            zip(*map(variant.texts, prompts), strict=True), variant.plan.slots, strict=True
        ):
            # one name per vector: slots may know the same token by different vectors
            names = {u.attribute.token: row_name(u.attribute.token, id(u.attribute)) for u in own}
            tokens |= {
                names[u.attribute.token]: {t.name: token_vectors(Words.of(t), u, t.name) for t in towers}
                for u in own
            }
            slots.append([without_tokens(text, names) for text in texts])
    unique = list(dict.fromkeys(text for texts in slots for text in texts))
    states = encode_weighted(variants[0].model, unique, tokens)
    return pack([states[[unique.index(text) for text in texts]] for texts in slots])


def token_vectors(words: Words, use: Use, encoder: str) -> torch.Tensor:
    """The token's vectors (n, dim) for one text encoder, at the attribute's strength: on the line from its
    plain word, which is strength 0. The line is one of directions: on the straight way between two words the
    norm would sink (see filters.merge).

    Raises ESCDiffError when the attribute has none for the ``encoder``, and for those of another width.
    """
    if encoder not in use.attribute.embeddings:
        raise ESCDiffError(
            f"the attribute {use.attribute.token!r} has no token for the text encoder {encoder}, which "
            "this model reads; load the model it was learned on"
        )
    vectors = use.attribute.embeddings[encoder].to(words.device).float()
    if vectors.shape[-1] != words.width:
        raise ESCDiffError(
            f"the attribute's token is {vectors.shape[-1]} wide, this model's words are {words.width}; "
            "load the model it was learned on"
        )
    if use.strength == 1:
        return vectors
    word = one_vector(words.rows(use.attribute.word)).expand_as(vectors)
    if use.strength == 0:
        return word
    norms = (v.norm(dim=-1, keepdim=True) for v in (word, vectors))
    norms = torch.lerp(*norms, min(max(use.strength, 0.0), 1.0))
    return F.normalize(torch.lerp(word, vectors, use.strength), dim=-1) * norms


class Mix:
    """Attributes put onto a model: draws pictures with diffusers, at the price of plain sampling.

    ``shape`` and ``appearance`` may each be None; without both it is plain text-to-image. ``style`` is a
    reference whose look is taken over without learning, through shared self-attention (see shared_attention).
    ``overlap``: where both changed the same weights, ``divide`` them or ``add`` both changes (see
    choices.OVERLAPS). The model stays untouched. Raises ESCDiffError when an attribute was learned on another
    base model.
    """

    def __init__(self, model: DiffusionModel, shape: Use | None = None, appearance: Use | None = None,
                 middle: str = "shape", style: Reference | None = None, overlap: str = "divide"):
        self.model, self.middle, self.overlap = model, middle, overlap
        self.style = None if style is None else Style(model, style)
        self.given = check_uses(shape, appearance, middle, overlap, model.fingerprint)
        self.parts = schedule_parts([u for u in self.given if u.strength != 0])
        self.variants: dict[tuple[Use, ...], Variant] = {}
        self.merged: dict[tuple, dict[str, torch.Tensor]] = {}

    def variant(self, progress: float) -> Variant:
        """The UNet and route in force at ``progress`` (0 to 1) of the schedule; a border belongs to the part
        before it."""
        active = next(tuple(active) for _, end, active in self.parts if progress <= end)
        if active not in self.variants:
            self.variants[active] = Variant(self.model, list(active), self.given, self.middle, self.overlap,
                                            self.style is not None, self.merged)
        return self.variants[active]

    def draw(self, prompt: str | Sequence[str], negative: str = "", count: int = 1, steps: int = 30,
             guidance_scale: float | None = None, seed: int = 0, size: int | tuple[int, int] | None = None,
             progress: Callable[[int, int], None] | None = None, start: np.ndarray | None = None,
             denoise: float = 1.0) -> np.ndarray:
        """Draw ``count`` pictures of ``prompt``, or one of each of several: float32 (n, h, w, 3), seeds
        ``seed + i``.

        ``start`` is a picture (h, w, 3) of that size to draw over: the last ``denoise`` (0 to 1) of the steps
        are taken.
        """
        prompts = [prompt] * count if isinstance(prompt, str) else list(prompt)
        total = self.model.schedule.num_train_timesteps
        needed = list(dict.fromkeys(self.variant(end) for _, end, _ in self.parts))
        lengths = [v.route.slots for v in needed]
        offsets = dict(zip(needed, np.cumsum([0, *lengths[:-1]]).tolist(), strict=True))
        # "" is what a style picture is read with
        states = packed_states(needed, [*prompts, negative, ""])
        positive, negatives, empty = states[:-2], states[-2:-1], states[-1:]
        length = positive.context.shape[1] // sum(lengths)

        def unet_call(x: torch.Tensor, timestep: torch.Tensor, texts: Conditioning) -> torch.Tensor:
            variant = self.variant(round(1 - (float(timestep) + 1) / total, 6))
            first = offsets[variant] * length
            part = slice(first, first + variant.route.slots * length)
            own = texts.slot(part)
            if self.style is None:
                return predict(variant.unet, x, timestep, own)
            own = joined([own, empty.slot(part).to(x.device, x.dtype)])
            return predict(variant.unet, self.style.beside(x, timestep), timestep, own)[:-1]

        how = Drawing(steps, guidance_scale, seed, size, denoise=denoise,
                      start=None if start is None else image_to_latents(self.model, start[None]))
        return draw(self.model, positive, negatives, how, unet_call, progress)
