"""The UNet's side of the prompts: their tensor is taken apart for the step at hand, each block is shown its
own."""

import weakref
from collections.abc import Mapping, Sequence

import comfy.conds
import comfy.hooks
import comfy.patcher_extension
import torch

from ...escdiff_core.model.names import unet_map
from ...escdiff_core.unet.blocks import block_of
from ...escdiff_core.unet.route import Route
from .export import unet_config
from .notes import ESCDiff
from .states import MAIN, MARK, Layout

WRAPPER_KEY = "escdiff"
# of a conditioning's model_conds: text states for a part of the schedule and a slot
PAYLOAD = "escdiff_{}_{}"
BORDER = 1e-5                  # a hundredth of a timestep: a step on a border belongs to the part before it


def take_apart(model, layout: Layout, hooks: Sequence[comfy.hooks.HookGroup | None]) -> None:
    """Let ``model`` (a clone) read prompts of ``layout``. Before each step they become the main prompt of the
    part of the schedule that holds then, with the other slots' beside it, and with the part's of ``hooks``,
    its weights.

    Done where the host has all prompts of a step before it, so that a ControlNet sees the main prompt alone.
    Raises ESCDiffError there for prompts of another node, and where no prompt has brought the weights.
    """
    ours = {hook for group in hooks if group is not None for hook in group.hooks}
    joined: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()    # the host compares groups by identity

    def hooks_of(entry: dict, part: int) -> comfy.hooks.HookGroup | None:
        given = entry.get("hooks")
        if given is None or all(hook in ours for hook in given.hooks):
            return hooks[part]
        made = joined.setdefault(given, {})
        if part not in made:
            made[part] = comfy.hooks.HookGroup()
            own = [] if hooks[part] is None else hooks[part].hooks
            for hook in [*(h for h in given.hooks if h not in ours), *own]:
                made[part].add(hook)
        return made[part]

    def one(entry: dict, part: int) -> dict:
        held = entry["model_conds"].get("c_crossattn")
        width = layout.width if held is None else held.cond.shape[-1]
        if width == layout.width:
            return {**entry, "hooks": hooks_of(entry, part)}
        if width != layout.width * layout.columns or entry.get(MARK, layout) != layout:
            raise ESCDiff(
                "this CONDITIONING belongs to another ESCDiff Mix or Apply; take MODEL, positive and "
                "negative from one of them"
            )
        main, *others = (layout.column(held.cond, column) for column in layout.parts[part][1])
        texts = {"c_crossattn": main}
        if not entry.get(MAIN):
            texts |= {PAYLOAD.format(part, slot): states for slot, states in enumerate(others, 1)}
        conds = {name: comfy.conds.CONDCrossAttn(states) for name, states in texts.items()}
        return {**entry, "model_conds": {**entry["model_conds"], **conds}, "hooks": hooks_of(entry, part)}

    def wrapper(executor, base, conds, x_in, timestep, model_options):
        part = part_at(layout, base.model_sampling, timestep)
        known = model_options.get("registered_hooks")
        if hooks[part] is not None and (known is None or not hooks[part].is_subset_of(known)):
            raise ESCDiff(
                "no prompt of this sampler brings the weights of the schedule that its MODEL has from "
                "ESCDiff; take positive or negative from that ESCDiff node, as conditioning_to where "
                "a node joins two prompts, or take the MODEL from before it"
            )
        taken = [None if rows is None else [one(entry, part) for entry in rows] for rows in conds]
        return executor(base, taken, x_in, timestep, model_options)

    kind = comfy.patcher_extension.WrappersMP.CALC_COND_BATCH
    model.remove_wrappers_with_key(kind, WRAPPER_KEY)
    model.add_wrapper_with_key(kind, WRAPPER_KEY, wrapper)


def part_at(layout: Layout, sampling, sigma: torch.Tensor) -> int:
    """The number of the part of the schedule in which a step at ``sigma`` lies."""
    ends = [end for end, _ in layout.parts]
    borders = (float(sampling.percent_to_sigma(end + BORDER)) for end in ends[:-1])
    return next((n for n, border in enumerate(borders) if float(sigma[0]) >= border), len(ends) - 1)


def route_prompts(model, routes: Sequence[Route]) -> None:
    """Let the cross-attention of ``model`` (a clone) see the slot that the part's route names for its block.

    One wrapper of the diffusion model takes the payload out of its arguments and puts a first-position patch
    on the cross-attention for this one call. A conditioning without payload passes through untouched.
    """
    canonical = unet_map(unet_config(model))
    tables = [host_slots(route, canonical) for route in routes]
    places = {
        PAYLOAD.format(part, slot): (part, slot)
        for part, route in enumerate(routes)
        for slot in range(1, route.slots)
    }

    def wrapper(
        executor, x, timesteps=None, context=None, y=None, control=None, transformer_options=None, **kwargs
    ):
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
