"""Attributes on the host's model: deltas as patches of a clone, a prompt for each slot, one UNet evaluation
per step."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import comfy.hooks
import comfy.lora
import torch

from ...escdiff_core.attribute.tensors import DOWN, form_of, module_of
from ...escdiff_core.errors import ESCDiffError
from ...escdiff_core.mixing.mix import token_vectors
from ...escdiff_core.mixing.plan import Plan, Use, check_uses, plain_words, plan_mix, schedule_parts
from ...escdiff_core.model.names import unet_map
from ...escdiff_core.model.text import split_placeholders
from ...escdiff_core.unet.route import without_tokens
from ...escdiff_core.unet.tokens import cross_blocks, in_one
from .export import HOST_UNET, base_fingerprint, check_clip, unet_config
from .notes import tell
from .prompts import clip_with_tokens, encode, encoders_of, words_of
from .routing import host_slots, route_prompts, take_apart
from .states import MAIN, MARK, Layout, States, pack

# attachment of a MODEL: tokens of the attributes on it, and whether they ride on its prompts
CARRIED = "escdiff_carried"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """What holds from ``start`` to ``end`` of the schedule (0 to 1); ``hooks`` carry the weights that other
    parts do without."""

    start: float
    end: float
    plan: Plan
    hooks: comfy.hooks.HookGroup | None


@dataclass(frozen=True)
class Carried:
    """What a MODEL carries of earlier mixes: the attributes' ``tokens``, and whether they are
    ``scheduled``."""

    tokens: frozenset[str] = frozenset()
    scheduled: bool = False


@dataclass(frozen=True)
class Mixed:
    """A host MODEL with the attributes' deltas and routes on it, and what its prompts need."""

    model: object
    parts: tuple[Part, ...]
    given: tuple[Use, ...]
    layout: Layout | None      # of its prompts; None where one prompt serves every block and every part
    hooks: comfy.hooks.HookGroup | None


def mix(
    model, shape: Use | None, appearance: Use | None, middle: str = "shape", overlap: str = "divide"
) -> Mixed:
    """Put attributes onto a clone of ``model``. Raises ESCDiffError for another base model and the like (see
    check_uses).

    What acts all the time is patches of the clone. Layers that change on the way, those of an attribute with
    a start or an end and what it divides with the other, are the host's weight hooks, which ride on the
    conditioning.
    """
    given = check_uses(shape, appearance, middle, overlap, base_fingerprint(model))
    carried = check_carried(model, given)
    cross, clone, parts = cross_blocks(unet_map(unet_config(model))), model.clone(), []
    cuts = [
        (*cut, plan_mix(cut[2], middle, cross, overlap))
        for cut in schedule_parts([u for u in given if u.strength != 0])
    ]
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
    layout, groups = layout_of(clone, parts), [p.hooks for p in parts]
    if layout is not None:
        route_prompts(clone, [p.plan.route for p in parts])
        take_apart(clone, layout, groups)
    return Mixed(clone, tuple(parts), tuple(given), layout, comfy.hooks.HookGroup.combine_all_hooks(groups))


def columns_of(parts: Sequence[Part]) -> list[tuple[Use, ...]]:
    """What the different prompts are: for each the uses whose tokens it knows, the first part's main prompt
    first."""
    known: list[tuple[Use, ...]] = []
    for own in (own for part in parts for own in part.plan.slots):
        if own not in known:
            known.append(own)
    return known


def layout_of(model, parts: Sequence[Part]) -> Layout | None:
    """How prompts for ``parts`` lie in one tensor; None where there is one only."""
    known, canonical = columns_of(parts), unet_map(unet_config(model))
    if len(known) == 1:
        return None
    columns = tuple((part.end, tuple(known.index(own) for own in part.plan.slots)) for part in parts)
    places = tuple(tuple(sorted(host_slots(part.plan.route, canonical).items())) for part in parts)
    return Layout(unet_config(model)["cross_attention_dim"], columns, places)


def layers_of(use: Use) -> dict[tuple, dict[str, torch.Tensor]]:
    """The tensors of the delta, layer by layer, by a key that two uses share where they do the same to the
    layer."""
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in use.attribute.delta.items():
        layers.setdefault(module_of(name), {})[name] = tensor
    return {(use.attribute.token, use.strength, *map(id, layer.values())): layer for layer in layers.values()}


def only(use: Use, wanted: Callable[[tuple], bool]) -> Use:
    """``use`` with the layers alone whose key is ``wanted``."""
    delta = {
        name: tensor for key, layer in layers_of(use).items() if wanted(key) for name, tensor in layer.items()
    }
    return replace(use, attribute=replace(use.attribute, delta=delta))


def check_carried(model, given: Sequence[Use]) -> Carried:
    """What an ESCDiff node before this one left on ``model``. Raises ESCDiffError where the two cannot go
    together."""
    carried = model.get_attachment(CARRIED) or Carried()
    if tokens_of(given) and carried.scheduled:
        raise ESCDiffError(
            "an attribute with a start or an end, or with a token for each stage, acts through the "
            "prompts of its own ESCDiff node and would do nothing behind this one; give both "
            "attributes to one node"
        )
    if twice := carried.tokens & tokens_of(given):
        raise ESCDiffError(
            f"the model carries an attribute already that answers to {min(twice)}; connect the model "
            "from before that ESCDiff node, or learn one of them with another token name"
        )
    return carried


def tokens_of(given: Sequence[Use]) -> frozenset[str]:
    """The tokens of the attributes that are not off."""
    return frozenset(u.attribute.token for u in given if u.strength != 0)


def delta_patches(model, use: Use) -> dict:
    """The attribute's change of weights as patches in the host's format."""
    delta = use.attribute.delta
    if form_of(delta) == "lora":
        modules = {module_of(n) for n in delta if n.endswith(DOWN)}
        patches = comfy.lora.load_lora(
            delta, {m: f"{HOST_UNET}{m}.weight" for m in modules}, log_missing=False
        )
    else:
        patches = {HOST_UNET + n: ("diff", (t,)) for n, t in delta.items()}
    state = model.model.state_dict()
    sizes = {HOST_UNET + n: t.numel() for n, t in delta.items()}
    lost = {n for n in patches if n not in state or sizes.get(n, state[n].numel()) != state[n].numel()}
    if lost:
        raise ESCDiffError(
            f"the attribute {use.attribute.token!r} changes {len(lost)} tensors that this model does "
            f"not have (first: {min(lost)}); load the model it was learned on"
        )
    return patches


def conditioning(mixed: Mixed, clip, prompt: str) -> list:
    """CONDITIONING of ``prompt`` for ``mixed``: one entry that holds the prompt of every slot in every part
    of the schedule.

    Each slot knows its own attribute's token; tokens of others are their plain words there.
    """
    check_clip(clip)
    rows = []
    for own in columns_of(mixed.parts):
        text = without_tokens(prompt, plain_words(mixed.given, own))
        rows.append(encode(clip_knowing(own, clip), text))
    if mixed.layout is None:
        return rows[0]
    made = []
    for entries in zip(*rows, strict=True):       # several where the user's CLIP has a schedule of its own
        more = entries[0][1]
        hooks = comfy.hooks.HookGroup.combine_all_hooks([more.get("hooks"), mixed.hooks])
        made.append([pack([states for states, _ in entries]),
                     {**more, MARK: mixed.layout, **({} if hooks is None else {"hooks": hooks})}])
    return made


def warn_of_missing_tokens(mixed: Mixed, prompt: str) -> None:
    """Say in the log when the prompt does not name an attribute: then only its weights act, which seldom
    shows."""
    for use in mixed.given:
        held = any(is_token for _, is_token in split_placeholders(prompt, [use.attribute.token]))
        if use.strength and not held:
            log.warning(
                "ESCDiff: the prompt does not contain %s, so the %s attribute will hardly show; write "
                "%s where the %s belongs", use.attribute.token, use.attribute.kind, use.attribute.token,
                use.attribute.kind)


def tell_of_no_token(mixed: Mixed, prompt: str) -> None:
    """The same where nobody knows if ``prompt`` is the positive one: it is if it names an attribute; else it
    may be a negative."""
    tokens = [u.attribute.token for u in mixed.given if u.strength]
    if any(is_token for _, is_token in split_placeholders(prompt, tokens)):
        warn_of_missing_tokens(mixed, prompt)
    elif prompt.strip() and tokens:
        tell(
            f"no {' and no '.join(tokens)} in this prompt: right for a negative one, but needed in a "
            "positive one"
        )


def clip_of(mixed: Mixed, clip):
    """A CLIP that knows the tokens of all attributes in use, for any text node; one prompt then serves every
    block."""
    # at strength 0 a token is its plain word
    return clip_knowing([replace(u, attribute=in_one(u.attribute)) for u in mixed.given], clip)


def clip_knowing(uses: Iterable[Use], clip):
    """``clip`` with the tokens of ``uses`` at their strengths, or itself if there are none."""
    words = {encoder: words_of(clip, encoder) for encoder in encoders_of(clip)}
    vectors = {u.attribute.token: {encoder: token_vectors(own, u, encoder) for encoder, own in words.items()}
               for u in uses}
    return clip_with_tokens(clip, vectors) if vectors else clip


def cleared(rows: list) -> list:
    """``rows`` (a CONDITIONING) with the main prompt alone; a schedule's weights stay. Raises ESCDiffError
    without its layout."""
    made = []
    for states, more in rows:
        layout = more.get(MARK)
        if layout is None and isinstance(states, States):
            raise ESCDiffError(
                "a node has joined this CONDITIONING to another one, and its main prompt cannot be "
                "told any more; put ESCDiff Clear before that node"
            )
        if layout is not None and len(layout.parts) == 1:
            more = {name: value for name, value in more.items() if name != MARK}
            made.append([layout.column(states, 0), more])
        else:
            made.append([states, more if layout is None else {**more, MAIN: True}])
    return made
