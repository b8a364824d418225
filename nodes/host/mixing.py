"""Attributes on the host's model: deltas as patches of a clone, prompts that ride along, one UNet evaluation per step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import comfy.conds
import comfy.lora
import comfy.patcher_extension

from ...escdiff_core.attribute.tensors import DOWN, form_of, module_of
from ...escdiff_core.errors import ESCDiffError
from ...escdiff_core.method.blocks import block_of
from ...escdiff_core.method.mix import Plan, Use, check_uses, plain_words, plan_mix, token_vectors
from ...escdiff_core.method.route import Route, without_tokens
from ...escdiff_core.model.names import unet_map
from .export import HOST_UNET, base_fingerprint, check_clip, unet_config
from .prompts import HostText, clip_with_tokens, encode

WRAPPER_KEY = "escdiff"
PAYLOAD = "escdiff_slot_{}"      # entry of a conditioning's model_conds: the text states of one more prompt
MIDDLE = "middle_block."


@dataclass(frozen=True)
class Mixed:
    """A host MODEL with the attributes' deltas and route on it, and what its prompts need."""

    model: object
    plan: Plan
    given: tuple[Use, ...]


def mix(model, shape: Use | None, appearance: Use | None, middle: str = "shape") -> Mixed:
    """Put attributes onto a clone of ``model``. Raises ESCDiffError for another base model and the like (see check_uses)."""
    given = check_uses(shape, appearance, middle, base_fingerprint(model))
    used = [u for u in given if u.strength != 0]
    plan = plan_mix(used, middle)
    clone = model.clone()
    for use in used:
        add_delta(clone, use, keep_middle=plan.middle_owner is use.attribute)
    if plan.route.slots > 1:
        route_prompts(clone, plan.route)
    return Mixed(clone, plan, tuple(given))


def add_delta(model, use: Use, keep_middle: bool) -> None:
    """Add the attribute's change of weights to ``model`` (a clone) as the host's own patches, at its strength."""
    delta = {n: t for n, t in use.attribute.delta.items() if keep_middle or not n.startswith(MIDDLE)}
    if form_of(delta) == "lora":
        modules = {module_of(n) for n in delta if n.endswith(DOWN)}
        patches = comfy.lora.load_lora(delta, {m: f"{HOST_UNET}{m}.weight" for m in modules}, log_missing=False)
    else:
        patches = {HOST_UNET + n: ("diff", (t.float(),)) for n, t in delta.items()}
    lost = set(patches) - set(model.add_patches(patches, use.strength))
    if lost:
        raise ESCDiffError(f"the attribute {use.attribute.token!r} changes {len(lost)} tensors that this model does not have "
                           f"(first: {min(lost)}); load the model it was learned on")


def conditioning(mixed: Mixed, clip, prompt: str) -> list:
    """CONDITIONING of ``prompt`` for ``mixed``: the main prompt, with the other slots' states riding along.

    Each slot knows its own attribute's token; tokens of others are their plain words there.
    """
    check_clip(clip)
    words = HostText.of(clip)
    rows = []
    for own in mixed.plan.slots:
        vectors = {u.attribute.token: token_vectors(words, u) for u in own}
        text = without_tokens(prompt, plain_words(mixed.given, own))
        rows.append(encode(clip_with_tokens(clip, vectors) if vectors else clip, text))
    main, *riders = rows
    made = []
    for number, (states, more) in enumerate(main):
        payload = {PAYLOAD.format(i): comfy.conds.CONDCrossAttn(r[min(number, len(r) - 1)][0]) for i, r in enumerate(riders, 1)}
        made.append([states, {**more, "model_conds": {**more.get("model_conds", {}), **payload}}])
    return made


def clip_of(mixed: Mixed, clip):
    """A CLIP that knows the tokens of all attributes in use, for any text node; one prompt then serves every block."""
    words = HostText.of(clip)
    return clip_with_tokens(clip, {u.attribute.token: token_vectors(words, u) for own in mixed.plan.slots for u in own})


def cleared(rows: list) -> list:
    """``rows`` (a CONDITIONING) without the pack's payload: what a stock text node would have given."""
    own = tuple(PAYLOAD.format(i) for i in range(1, 9))
    return [[states, {**more, "model_conds": {k: v for k, v in more.get("model_conds", {}).items() if k not in own}}]
            for states, more in rows]


def route_prompts(model, route: Route) -> None:
    """Let the cross-attention of ``model`` (a clone) see the slot that ``route`` names for its block.

    One wrapper of the diffusion model takes the payload out of its arguments and puts a first-position patch on the
    cross-attention for this one call. A conditioning without payload passes through untouched.
    """
    slots = host_slots(route, unet_map(unet_config(model)))
    names = [PAYLOAD.format(i) for i in range(1, route.slots)]

    def wrapper(executor, x, timesteps=None, context=None, y=None, control=None, transformer_options=None, **kwargs):
        riders = {i: kwargs.pop(name) for i, name in enumerate(names, 1) if name in kwargs}
        options = transformer_options
        if riders:
            options = dict(transformer_options or {})

            def attend(n, states, value, extra):
                slot = slots.get(tuple(extra["block"][:2]), 0)
                own = riders.get(slot)
                if own is None:
                    return n, states, value
                own = own.to(states)
                return n, own, own

            patches = dict(options.get("patches", {}))
            patches["attn2_patch"] = [attend, *patches.get("attn2_patch", [])]
            options["patches"] = patches
        return executor(x, timesteps, context, y, control, options, **kwargs)

    model.remove_wrappers_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, WRAPPER_KEY)
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, WRAPPER_KEY, wrapper)


def host_slots(route: Route, canonical: Mapping[str, str]) -> dict[tuple[str, int], int]:
    """The route in the host's words: ("input" | "middle" | "output", number) to slot."""
    slots: dict[tuple[str, int], int] = {}
    for name, original in canonical.items():
        if not name.endswith(".attn2.to_q.weight"):
            continue
        part, number = original.split(".")[:2]
        slot = (route.layers or {}).get(block_of(name), 0)
        slots[(part.split("_")[0], 0 if part == "middle_block" else int(number))] = slot
    return slots


def uses(values: Sequence[tuple]) -> list[Use | None]:
    """Use objects from (attribute or None, strength) pairs."""
    return [None if attribute is None else Use(attribute, strength) for attribute, strength in values]


