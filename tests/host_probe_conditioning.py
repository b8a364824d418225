"""Runs inside one real ComfyUI: what stock nodes do to a CONDITIONING of ours reaches every prompt in it;
prints JSON.

``python host_probe_conditioning.py HOST BASE PACK``; called by test_host_conditioning.py.
"""

import json
import traceback

from host_probe import load_pack
from host_probe_base import core, draw, found, largest, node, stock, torch

ONE, TWO, WIDTH = "a *m with *a appearance on a white background", "a *a *m on a black background", 192


def attribute(model, kind: str, seed: int):
    """An attribute that nobody learned: a token that its own half of the UNet sees, and a change of two of
    its layers."""
    own = {"shape": "input_blocks.{}.", "appearance": "output_blocks.{}."}[kind]
    names = core("escdiff_core.model.names").unet_map(core("nodes.host.export").unet_config(model))
    places = {original: name for name, original in names.items()}
    generator = torch.Generator().manual_seed(seed)
    weights = {n.removeprefix("diffusion_model."): t for n, t in model.model.state_dict().items()}
    delta = {n: 0.2 * t.std() * torch.randn(t.shape, generator=generator) for n, t in weights.items()
             if n.startswith((own.format(4), own.format(5))) and n.endswith("attn2.to_v.weight")}
    assert delta
    block_of = core("escdiff_core.unet.blocks").block_of
    blocks = {block_of(name) for original, name in places.items() if original.startswith(own.split("{")[0])}
    return core("escdiff_core.attribute").Attribute(
        kind=kind, token={"shape": "*m",
                          "appearance": "*a"}[kind], word=kind, delta=delta, blocks=tuple(sorted(blocks)),
        embeddings={"clip_l": torch.randn(1, WIDTH, generator=generator)}, recipe="none", recipe_hash="",
        preset="paper", base_fingerprint=core("nodes.host.export").base_fingerprint(model), steps=0, seed=0)


def steps_of(model, positive, negative, cfg=1.0):
    """Every call of the UNet on the way: its input, its sigma and what comes out."""
    seen, watched = [], model.clone()

    def keep(call, given):
        out = call(given["input"], given["timestep"], **given["c"])
        seen.append((given["input"], given["timestep"], out, given["c"]["c_crossattn"].shape[-1]))
        return out

    watched.set_model_unet_function_wrapper(keep)
    draw(watched, positive, negative, cfg=cfg)
    return seen


def follows(model, positive, negative, headless, states) -> list[float]:
    """Largest relative difference of each step to the headless UNet with ``states`` (of a variant: packed
    text states)."""
    sampling, worst = model.get_model_object("model_sampling"), []
    for x, sigma, out, width in steps_of(model, positive, negative):
        assert width == WIDTH, "everything behind sees the main prompt alone"
        t = sampling.timestep(sigma)
        variant = headless.variant(1 - (float(t[0]) + 1) / 1000)
        answer = variant.unet(
            sampling.calculate_input(sigma, x), t, encoder_hidden_states=states(variant)
        ).sample
        worst.append(
            largest(out, sampling.calculate_denoised(sigma, answer, x)) / max(1.0, float(out.abs().max()))
        )
    return worst


def said(what) -> str:
    try:
        what()
    except Exception as error:      # whatever comes out is what the artist reads
        return f"{type(error).__module__}.{type(error).__name__}: {error}"
    return "no error"


def joined(one, two):
    """Slot by slot, one text behind the other."""
    def behind(variant):
        parts = zip(
            *(states(variant).chunk(variant.route.slots, dim=1) for states in (one, two)), strict=True
        )
        return torch.cat([torch.cat(pair, dim=1) for pair in parts], dim=1)

    return behind


def operations(mixed, clip, headless, plain, name) -> None:
    """Each stock node on prompts of ``mixed``, beside what the headless mix computes with the same done to
    every slot."""
    model, mix = mixed
    one, two, none = (node("ESCDiffPrompt", mixed=mix, clip=clip, prompt=text)[0] for text in (ONE, TWO, ""))
    stocks = plain[0][0]

    def of(text):
        return lambda variant: variant.states(text).context

    def everywhere(variant):
        return torch.cat([stocks] * variant.route.slots, dim=1)

    def average(to, source, share):
        return stock("ConditioningAverage", "addWeighted", conditioning_to=to, conditioning_from=source,
                     conditioning_to_strength=share)[0]

    def concat(to, source):
        return stock("ConditioningConcat", "concat", conditioning_to=to, conditioning_from=source)[0]

    cases = {
        "as it is": (one, of(ONE)), "Average 0": (average(one, two, 0.0), of(TWO)), "Average 0.3": (average(
            one, two, 0.3), lambda v: 0.3 * v.states(ONE).context + 0.7 * v.states(TWO).context),
        "Average with a stock prompt": (average(one, plain, 0.3),
                                        lambda v: 0.3 * v.states(ONE).context + 0.7 * everywhere(v)),
        "a stock prompt averaged": (average(plain, one, 0.3),
                                    lambda v: 0.7 * v.states(ONE).context + 0.3 * everywhere(v)),
        "Concat": (concat(one, two), joined(of(ONE), of(TWO))),
        "Concat of a stock prompt": (concat(one, plain), joined(of(ONE), everywhere)),
        "Concat to a stock prompt": (concat(plain, one), joined(everywhere, of(ONE))), "ZeroOut": (stock(
            "ConditioningZeroOut", "zero_out", conditioning=one)[0], lambda v: 0 * v.states(ONE).context),
        "times 0": ([[states * 0.0, more] for states, more in one], lambda v: 0 * v.states(ONE).context),
        "times 1.5": ([[states * 1.5, more] for states, more in one], lambda v: 1.5 * v.states(ONE).context),
        "range 0 to 1": (stock("ConditioningSetTimestepRange", "set_range", conditioning=one, start=0.0,
                               end=1.0)[0], of(ONE)),
    }
    for case, (positive, states) in cases.items():
        steps = follows(model, positive, none, headless, states)
        found[f"{name}: {case}"] = [len(steps), max(steps)]
    found[f"{name}: batches"] = [len(x) for x, *_ in steps_of(model, one, none, cfg=3.0)]

    def ranged(rows, start, end):
        return stock("ConditioningSetTimestepRange", "set_range", conditioning=rows, start=start, end=end)[0]

    both = stock("ConditioningCombine", "combine", conditioning_1=ranged(one, 0.0, 0.4),
                 conditioning_2=ranged(two, 0.4, 1.0))[0]
    texts = iter([ONE, TWO, TWO])
    steps = follows(model, both, none, headless, lambda v: v.states(next(texts)).context)
    found[f"{name}: ranges"] = [len(steps), max(steps)]
    whole = torch.ones(1, 64, 64)
    areas = {
        "SetArea": stock("ConditioningSetArea", "append", conditioning=one, width=64, height=64, x=0, y=0,
                         strength=1.0)[0],
        "SetMask": stock("ConditioningSetMask", "append", conditioning=one, mask=whole,
                         set_cond_area="default", strength=1.0)[0],
        "Combine": stock("ConditioningCombine", "combine", conditioning_1=one, conditioning_2=one)[0]
    }
    usual = draw(model, one, none)
    for case, rows in areas.items():
        found[f"{name}: {case}"] = [3, largest(draw(model, rows, none), usual) / float(usual.abs().max())]
    clear = node("ESCDiffClear", conditioning=one)[0]
    found[f"{name}: Clear"] = [3, max(follows(model, clear, none, headless, lambda v: torch.cat(
        [v.states(ONE).context[:, :77]] * v.route.slots, dim=1)))]


def refusals(base, clip, plain, routed, scheduled, made) -> None:
    (model, mix), (late, part) = routed, scheduled
    one, other = (node("ESCDiffPrompt", mixed=mixed, clip=clip, prompt=ONE)[0] for mixed in (mix, part))
    alone = node("ESCDiffApply", model=base, shape=made["shape"], middle="none")
    again = node("ESCDiffPrompt", mixed=alone[1], clip=clip, prompt="a *m")[0]
    joined_rows = stock("ConditioningConcat", "concat", conditioning_to=plain, conditioning_from=one)[0]
    late_rows = stock("ConditioningConcat", "concat", conditioning_to=plain, conditioning_from=other)[0]
    found["refused"] = {
        "model without attributes": said(lambda: draw(base, one, plain)),
        "model of another mix": said(lambda: draw(late, one, plain)),
        "same width, other blocks": said(lambda: draw(model, again, plain)),
        "two mixes joined": said(
            lambda: stock("ConditioningConcat", "concat", conditioning_to=one, conditioning_from=other)
        ),
        "weights of the schedule lost": said(lambda: draw(late, late_rows, plain)),
        "stock prompts on a schedule": said(lambda: draw(late, plain, plain)),
        "Clear behind a join": said(lambda: node("ESCDiffClear", conditioning=joined_rows)),
    }
    found["stock prompts on a route"] = bool(torch.isfinite(draw(model, plain, plain)).all())
    pairs = zip(steps_of(late, other, plain, cfg=3.0), steps_of(late, other, other, cfg=3.0), strict=False)
    found["first step of a stock negative"] = next(largest(a[2], b[2][1:]) for a, b in pairs)


def words(model, clip, vae, made) -> None:
    """Errors and notes that the core words for both faces, as nodes say them."""
    from dataclasses import replace

    from host_probe_base import host_nodes

    full = {"image": torch.rand(1, 128, 128, 3), "mask": torch.ones(1, 128, 128)}
    weights = replace(made["shape"], embeddings={})
    found["words"] = {
        "mask": said(lambda: node("ESCDiffReferenceFeatures", model=model, clip=clip, vae=vae, **full)),
        "no token": said(lambda: node("ESCDiffExport", attribute=weights, form="embedding", name="probe")),
        "no folder": said(lambda: node("ESCDiffTrainFilters", model=model, clip=clip, vae=vae, folder=
                                       "/nowhere", name="probe", steps=1, seed=0))
    }
    for reach in ("own", "all"):
        export = host_nodes.NODE_CLASS_MAPPINGS["ESCDiffExport"].EXECUTE_NORMALIZED
        output = export(
            attribute=replace(made["shape"], reach=reach), form="full", name=f"probe_{reach}", rank=4
        )
        shown = output.ui if isinstance(output.ui, dict) else output.ui.as_dict()
        found["words"][f"export {reach}"] = "\n".join(map(str, shown["text"]))


def main() -> None:
    load_pack()
    with torch.inference_mode():
        model, clip, vae, *_ = node("ESCDiffLoadPocketModel")
        direct = core("escdiff_core.families.load").load_model("pocket", "cpu")
        method, plain = (
            core("escdiff_core.mixing.mix"),
            clip.encode_from_tokens_scheduled(clip.tokenize("a red star")),
        )
        made = {kind: attribute(model, kind, seed) for seed, kind in enumerate(("shape", "appearance"))}
        uses = [method.Use(made["shape"]), method.Use(made["appearance"])]
        routed = node("ESCDiffApply", model=model, **made)
        scheduled = node("ESCDiffApply", model=model, **made, shape_end=0.3)
        sections = {
            "routed": lambda: operations(routed, clip, method.Mix(direct, *uses), plain, "routed"),
            "scheduled": lambda: operations(
                scheduled, clip, method.Mix(direct, method.Use(made["shape"], end=0.3), uses[
                    1]), plain, "scheduled"), "words": lambda: words(model, clip, vae, made),
            "refusals": lambda: refusals(model, clip, plain, routed, scheduled, made)
        }
        found["failed"] = {}
        for name, section in sections.items():
            try:
                section()
            except Exception:      # the other sections' findings are worth having; a test looks at this one
                found["failed"][name] = traceback.format_exc()
    print("FOUND " + json.dumps(found))


if __name__ == "__main__":
    main()
