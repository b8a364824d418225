"""Attributes on the host's model: deltas as patches of a clone, prompts that ride along, one UNet evaluation per step."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import comfy.conds
import comfy.hooks
import comfy.lora
import comfy.patcher_extension
import torch

from ...escdiff_core.attribute.tensors import DOWN, form_of, module_of
from ...escdiff_core.errors import ESCDiffError
from ...escdiff_core.method.blocks import block_of
from ...escdiff_core.method.mix import token_vectors
from ...escdiff_core.method.plan import Plan, Use, check_uses, plain_words, plan_mix, schedule_parts
from ...escdiff_core.method.route import Route, without_tokens
from ...escdiff_core.method.tokens import cross_blocks, in_one
from ...escdiff_core.model.names import unet_map
from ...escdiff_core.model.text import split_placeholders
from .export import HOST_UNET, base_fingerprint, check_clip, unet_config
from .notes import tell
from .prompts import HostText, clip_with_tokens, encode

WRAPPER_KEY = "escdiff"
PAYLOAD = "escdiff_{}_{}"      # entry of a conditioning's model_conds: text states for one part of the schedule and one slot
CARRIED = "escdiff_carried"    # attachment of a MODEL: tokens of the attributes on it, and whether they ride on its prompts
BORDER = 1e-5                  # of the schedule: a hundredth of a timestep
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """What holds from ``start`` to ``end`` of the schedule (0 to 1); ``hooks`` carry the weights that other parts do without."""

    start: float
    end: float
    plan: Plan
    hooks: comfy.hooks.HookGroup | None


@dataclass(frozen=True)
class Carried:
    """What a MODEL carries of earlier mixes: the attributes' ``tokens``, and whether they are ``scheduled``."""

    tokens: frozenset[str] = frozenset()
    scheduled: bool = False


@dataclass(frozen=True)
class Mixed:
    """A host MODEL with the attributes' deltas and routes on it, and what its prompts need."""

    model: object
    parts: tuple[Part, ...]
    given: tuple[Use, ...]


def mix(model, shape: Use | None, appearance: Use | None, middle: str = "shape", overlap: str = "divide") -> Mixed:
    """Put attributes onto a clone of ``model``. Raises ESCDiffError for another base model and the like (see check_uses).

    What acts all the time is patches of the clone. Layers that change on the way, those of an attribute with a start or an end and
    what it divides with the other, are the host's weight hooks, which ride on the conditioning of each part of the schedule.
    """
    given = check_uses(shape, appearance, middle, overlap, base_fingerprint(model))
    carried = check_carried(model, given)
    cross, clone, parts = cross_blocks(unet_map(unet_config(model))), model.clone(), []
    cuts = [(*cut, plan_mix(cut[2], middle, cross, overlap)) for cut in schedule_parts([u for u in given if u.strength != 0])]
    plans = {plan.weights: plan for *_, plan in cuts}
    acting = {same: plan.acting() for same, plan in plans.items()}
    always = set.intersection(*(set().union(*map(layers_of, uses)) for uses in acting.values()))
    for use in next(iter(acting.values())):
        clone.add_patches(delta_patches(clone, only(use, lambda layer: layer in always)), use.strength)
    for start, end, _, plan in cuts:
        hooks = None
        for use in acting[plan.weights]:
            patches = delta_patches(clone, only(use, lambda layer: layer not in always))
            if not patches:
                continue
            hook = comfy.hooks.WeightHook(strength_model=use.strength)
            hook.weights, hook.need_weight_init = patches, False
            hooks = hooks or comfy.hooks.HookGroup()
            hooks.add(hook)
        parts.append(Part(start, end, plan, hooks))
    if any(acting.values()):
        clone.set_attachments(CARRIED, Carried(carried.tokens | tokens_of(given), len(parts) > 1))
    routes = [p.plan.route for p in parts]
    if any(r.slots > 1 for r in routes):
        route_prompts(clone, routes)
    return Mixed(clone, tuple(parts), tuple(given))


def layers_of(use: Use) -> dict[tuple, dict[str, torch.Tensor]]:
    """The tensors of the delta, layer by layer, by a key that two uses share where they do the same to the layer."""
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in use.attribute.delta.items():
        layers.setdefault(module_of(name), {})[name] = tensor
    return {(use.attribute.token, use.strength, *map(id, layer.values())): layer for layer in layers.values()}


def only(use: Use, wanted: Callable[[tuple], bool]) -> Use:
    """``use`` with the layers alone whose key is ``wanted``."""
    delta = {name: tensor for key, layer in layers_of(use).items() if wanted(key) for name, tensor in layer.items()}
    return replace(use, attribute=replace(use.attribute, delta=delta))


def check_carried(model, given: Sequence[Use]) -> Carried:
    """What an ESCDiff node before this one left on ``model``. Raises ESCDiffError where the two cannot go together."""
    carried = model.get_attachment(CARRIED) or Carried()
    if tokens_of(given) and carried.scheduled:
        raise ESCDiffError("an attribute with a start or an end, or with a token for each stage, acts through the prompts of its "
                           "own ESCDiff node and would do nothing behind this one; give both attributes to one node")
    if twice := carried.tokens & tokens_of(given):
        raise ESCDiffError(f"the model carries an attribute already that answers to {min(twice)}; connect the model from before "
                           "that ESCDiff node, or learn one of them with another token name")
    return carried


def tokens_of(given: Sequence[Use]) -> frozenset[str]:
    """The tokens of the attributes that are not off."""
    return frozenset(u.attribute.token for u in given if u.strength != 0)


def delta_patches(model, use: Use) -> dict:
    """The attribute's change of weights as patches in the host's format."""
    delta = use.attribute.delta
    if form_of(delta) == "lora":
        modules = {module_of(n) for n in delta if n.endswith(DOWN)}
        patches = comfy.lora.load_lora(delta, {m: f"{HOST_UNET}{m}.weight" for m in modules}, log_missing=False)
    else:
        patches = {HOST_UNET + n: ("diff", (t,)) for n, t in delta.items()}
    state = model.model.state_dict()
    sizes = {HOST_UNET + n: t.numel() for n, t in delta.items()}
    lost = {n for n in patches if n not in state or sizes.get(n, state[n].numel()) != state[n].numel()}
    if lost:
        raise ESCDiffError(f"the attribute {use.attribute.token!r} changes {len(lost)} tensors that this model does not have "
                           f"(first: {min(lost)}); load the model it was learned on")
    return patches


def conditioning(mixed: Mixed, clip, prompt: str) -> list:
    """CONDITIONING of ``prompt`` for ``mixed``: the main prompt, with the other slots' states riding along.

    Each slot knows its own attribute's token; tokens of others are their plain words there. Several parts of the schedule
    give several entries, each for its own range of steps.
    """
    check_clip(clip)
    words, made = HostText.of(clip), []
    for number, part in enumerate(mixed.parts):
        rows = []
        for own in part.plan.slots:
            vectors = {u.attribute.token: token_vectors(words, u) for u in own}
            text = without_tokens(prompt, plain_words(mixed.given, own))
            rows.append(encode(clip_with_tokens(clip, vectors) if vectors else clip, text))
        main, *riders = rows
        # the host's ranges hold both their ends: a step on a border belongs to the part before it, and none to no part
        start, end = (mark + BORDER if 0 < mark < 1 else mark for mark in (part.start, part.end))
        when = {"start_percent": start, "end_percent": end} if len(mixed.parts) > 1 else {}
        for index, (states, more) in enumerate(main):
            payload = {PAYLOAD.format(number, i): comfy.conds.CONDCrossAttn(r[min(index, len(r) - 1)][0])
                       for i, r in enumerate(riders, 1)}
            both = [h for h in (more.get("hooks"), part.hooks) if h is not None]      # the user's CLIP may carry hooks too
            hooks = {"hooks": both[0] if len(both) == 1 else comfy.hooks.HookGroup.combine_all_hooks(both)} if both else {}
            made.append([states, {**more, **when, **hooks, "model_conds": {**more.get("model_conds", {}), **payload}}])
    return made


def warn_of_missing_tokens(mixed: Mixed, prompt: str) -> None:
    """Say in the log when the prompt does not name an attribute: then only its weights act, which seldom shows."""
    for use in mixed.given:
        held = any(is_token for _, is_token in split_placeholders(prompt, [use.attribute.token]))
        if use.strength and not held:
            log.warning("ESCDiff: the prompt does not contain %s, so the %s attribute will hardly show; write %s where the %s "
                        "belongs", use.attribute.token, use.attribute.kind, use.attribute.token, use.attribute.kind)


def tell_of_no_token(mixed: Mixed, prompt: str) -> None:
    """The same where nobody knows if ``prompt`` is the positive one: it is if it names an attribute; else it may be a negative."""
    tokens = [u.attribute.token for u in mixed.given if u.strength]
    if any(is_token for _, is_token in split_placeholders(prompt, tokens)):
        warn_of_missing_tokens(mixed, prompt)
    elif prompt.strip() and tokens:
        tell(f"no {' and no '.join(tokens)} in this prompt: right for a negative one, but needed in a positive one")


def clip_of(mixed: Mixed, clip):
    """A CLIP that knows the tokens of all attributes in use, for any text node; one prompt then serves every block."""
    words = HostText.of(clip)
    uses = [replace(u, attribute=in_one(u.attribute)) for u in mixed.given]      # at strength 0 a token is its plain word
    return clip_with_tokens(clip, {u.attribute.token: token_vectors(words, u) for u in uses})


def cleared(rows: list) -> list:
    """``rows`` (a CONDITIONING) without the other slots' prompts; a schedule's ranges and weight hooks stay."""
    mine = PAYLOAD.split("{")[0]
    return [[states, {**more, "model_conds": {k: v for k, v in more.get("model_conds", {}).items() if not k.startswith(mine)}}]
            for states, more in rows]


def route_prompts(model, routes: Sequence[Route]) -> None:
    """Let the cross-attention of ``model`` (a clone) see the slot that the part's route names for its block.

    One wrapper of the diffusion model takes the payload out of its arguments and puts a first-position patch on the
    cross-attention for this one call. A conditioning without payload passes through untouched.
    """
    canonical = unet_map(unet_config(model))
    tables = [host_slots(route, canonical) for route in routes]
    places = {PAYLOAD.format(part, slot): (part, slot) for part, route in enumerate(routes) for slot in range(1, route.slots)}

    def wrapper(executor, x, timesteps=None, context=None, y=None, control=None, transformer_options=None, **kwargs):
        riders = {places[name]: kwargs.pop(name) for name in places if name in kwargs}
        options = transformer_options
        if riders:
            part = next(iter(riders))[0]      # the host batches only conditionings with the same payload
            options = dict(transformer_options or {})

            def attend(n, states, value, extra):
                own = riders.get((part, tables[part].get(tuple(extra["block"][:2]), 0)))
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
