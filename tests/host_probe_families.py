"""Runs inside one real ComfyUI: SD 2.x and SDXL checkpoints from the stock loader, learned on, mixed and
exported; prints JSON.

``python host_probe_families.py HOST BASE PACK``; called by test_host_families.py.
"""

import gc
import json
import resource
import time
import traceback
from dataclasses import replace
from itertools import pairwise

from host_probe import load_pack
from host_probe_base import (
    control_net,
    controlled,
    core,
    draw,
    few_views,
    found,
    largest,
    node,
    stock,
    torch,
)

PROMPT = "a photo of a *m with *a appearance on a white background"
# pixels of what is drawn and of what is learned from: the families' own sizes would take minutes here
SIZE, SMALL = 128, 64
# Of SDXL the two layers of B-LoRA, which ComfyUI puts on and takes off in no time; SD 2.x has too few levels
# here to have them
PRESETS = {"sd2": "recipe's own", "sdxl": "b-lora"}
# what encode_adm tells an SDXL of the picture's size where nobody says it
TOLD = (768, 768, 0, 0, 768, 768)


def shrink() -> None:
    """The families learn at SMALL."""
    families = core("escdiff_core.families").FAMILIES
    for name, family in families.items():
        families[name] = replace(family, native_size=SMALL, noise=lambda shapes, read: {})


def headless(model, texts):
    """What the core's ``model`` makes of prompts, with the size that the host tells."""
    told = core("escdiff_core.model.weighted").encode_weighted(model, texts)
    return (
        told if told.pooled is None else replace(told, time_ids=torch.tensor([TOLD]).expand(len(texts), -1))
    )


def parity(name: str, model, clip, vae):
    """The private copy against the host: text states, pooled vector, and the UNet with and without a LoRA."""
    import comfy.model_management

    seen, export, predict = {}, core("nodes.host.export"), core("escdiff_core.model.conditioning").predict
    for skip in (-3, None):       # one copy at a time
        used = stock("CLIPSetLastLayer", "set_last_layer", clip=clip,
                     stop_at_clip_layer=skip)[0] if skip else clip
        copy = None
        copy = export.private_model(model, used, vae)
        theirs, pooled = used.encode_from_tokens(used.tokenize("a (red:1.2) star"), return_pooled=True)
        ours = headless(copy, ["a (red:1.2) star"])
        seen[f"text {skip}"] = largest(theirs, ours.context)
        if ours.pooled is not None:
            seen[f"pooled {skip}"] = largest(pooled, ours.pooled)
    seen["family"], seen["class"] = copy.family, type(model.model.model_config).__name__
    told, generator = headless(copy, ["a red star"]), torch.Generator().manual_seed(3)
    copy = replace(copy, towers=())
    x, t = torch.randn(1, 4, 16, 16, generator=generator), torch.tensor([500.0])
    key = "diffusion_model.input_blocks.1.0.in_layers.2.weight"
    patched = model.clone()
    patched.add_patches(
        {
            key: ("diff",
                  (0.1 * torch.randn(dict(model.model.named_parameters())[key].shape, generator=generator),))
        }, 0.7)
    more = (
        {} if told.pooled is None else {"y": model.model.encode_adm(pooled_output=told.pooled, device="cpu")}
    )
    for what, patcher in (("unet", model), ("lora", patched)):
        comfy.model_management.load_models_gpu([patcher], force_patch_weights=True)
        theirs = patcher.model.diffusion_model(x, t, context=told.context, **more)
        unet = copy.unet if patcher is model else export.private_model(patched, clip, vae).unet
        seen[what] = largest(theirs, predict(unet, x, t, told)) / float(theirs.abs().max())
        seen[f"{what} acts"] = largest(theirs, predict(copy.unet, x, t, told))
    found[name] = seen


def beside_headless(model, mixed, positive, negative, mix) -> float:
    """Largest relative difference of each sampling step on the host to the headless mix at that point."""
    sampling, steps, watched = model.get_model_object("model_sampling"), [], mixed.clone()
    conditioning = core("escdiff_core.model.conditioning")

    def keep(call, given):
        out = call(given["input"], given["timestep"], **given["c"])
        steps.append((given["input"], given["timestep"], out))
        return out

    watched.set_model_unet_function_wrapper(keep)
    draw(watched, positive, negative, cfg=1.0, steps=2)
    worst = 0.0
    for x, sigma, out in steps:
        t = sampling.timestep(sigma)
        variant = mix.variant(1 - (float(t[0]) + 1) / 1000)
        answer = conditioning.predict(
            variant.unet, sampling.calculate_input(sigma, x), t, variant.states(PROMPT)
        )
        worst = max(
            worst,
            largest(out, sampling.calculate_denoised(sigma, answer, x)) / max(1.0, float(out.abs().max())),
        )
    return worst


def learned(name: str, model, clip, vae) -> dict:
    """Both kinds with the family's own recipes, through the node, saved and loaded."""
    generator, made = torch.Generator().manual_seed(4), {}
    picture, mask = torch.rand(1, SMALL, SMALL, 3, generator=generator), torch.zeros(1, SMALL, SMALL)
    mask[:, 15:50, 15:50] = 1
    for kind, learn in (("shape", "ESCDiffLearnShape"), ("appearance", "ESCDiffLearnLook")):
        one = node(learn, model=model, clip=clip, vae=vae, image=picture, mask=mask, class_word="",
                   recipe="recipe's own", steps=1, seed=2**33, describe="", batch_size=1, preview_every=0,
                   preset=PRESETS[name])[0]
        node("ESCDiffSaveAttribute", attribute=one, name=f"{name}_{kind}")
        made[kind] = node("ESCDiffLoadAttribute", file=f"{name}_{kind}.safetensors")[0]
        found[name][kind] = [
            one.recipe,
            {n: list(t.shape) for n, t in made[kind].embeddings.items()},
            made[kind].form,
        ]
    return made


def short(*given):
    return draw(*given, steps=2, cfg=1.5)


def stronger(made):
    """The attribute with its change of weights so large that a mistake would show."""
    generator = torch.Generator().manual_seed(5)
    return replace(
        made,
        delta={
            n: 0.02 * torch.randn(t.shape, generator=generator) if n.endswith(".lora_up.weight") else t
            for n, t in made.delta.items()
        },
    )


def mixing(name: str, model, clip, vae, made) -> None:
    """Mix against the headless method: together, each in its part of the schedule, routed as published,
    behind a stock LoRA."""
    method, copy = core("escdiff_core.mixing.mix"), core("nodes.host.export").private_model(model, clip, vae)
    made = {kind: stronger(one) for kind, one in made.items()}
    published = {kind: replace(one, reach="own") for kind, one in made.items()}
    cases = {"own prompts": (published, {}, {}), "start and end": (made, {"end": 0.5}, {"start": 0.4})}
    for case, (given, shape, appearance) in cases.items():
        ranges = {f"shape_{k}": v for k, v in shape.items()} | {
            f"appearance_{k}": v for k, v in appearance.items()
        }
        mixed, positive, negative, _ = node(
            "ESCDiffMix", model=model, clip=clip, prompt=PROMPT, negative="", **given, **ranges
        )
        mix = method.Mix(
            copy, method.Use(given["shape"], **shape), method.Use(given["appearance"], **appearance)
        )
        found[name][f"mix {case}"] = beside_headless(model, mixed, positive, negative, mix)
    copy = mix = None
    mixed, positive, negative, _ = node(
        "ESCDiffMix", model=model, clip=clip, prompt=PROMPT, negative="", **made
    )
    plain = [stock("CLIPTextEncode", "encode", clip=clip, text=text)[0] for text in ("a red star", "")]
    base = short(model, *plain)
    found[name]["mix acts"] = largest(short(mixed, positive, negative), base)
    off = node("ESCDiffMix", model=model, clip=clip, prompt="a red star", negative="", **made,
               shape_strength=0.0, appearance_strength=0.0)
    found[name]["strength 0 is stock"] = torch.equal(short(*off[:3]), base)
    given = control_net(model)
    on_mix = short(mixed, *controlled(given, positive, negative))
    found[name]["control"] = [
        torch.equal(short(off[0], *controlled(given, *off[1:3])), short(model, *controlled(given, *plain))),
        bool(torch.isfinite(on_mix).all()), largest(on_mix, short(mixed, positive, negative))
    ]
    half = torch.zeros(1, SIZE, SIZE)
    half[:, :, :SIZE // 2] = 1
    for case, rows in {
            "area": stock("ConditioningSetArea", "append", conditioning=positive, width=SIZE // 2,
                          height=SIZE, x=0, y=0, strength=1.0)[0],
            "mask": stock("ConditioningSetMask", "append", conditioning=positive, mask=half,
                          set_cond_area="default", strength=1.0)[0]
    }.items():
        both = stock("ConditioningCombine", "combine", conditioning_1=rows, conditioning_2=plain[0])[0]
        out, everywhere = (draw(mixed, rows, negative, steps=1, side=SIZE // 8) for rows in (both, plain[0]))
        found[name][case] = [largest(a, b) / float(everywhere.abs().max())
                             for a, b in zip(out.split(8, -1), everywhere.split(8, -1), strict=True)]


def exports(name: str, model, clip, made) -> None:
    """What other programs load of it: the stock LoraLoader and ``embedding:`` against Mix, and no key left
    over."""
    import comfy.lora
    import comfy.utils
    import folder_paths

    shape = stronger(made["shape"])
    prompt = "a photo of a {} on a white background"
    ours = short(
        *node("ESCDiffMix", model=model, clip=clip, prompt=prompt.format("*m"), negative="", shape=shape)[:3]
    )
    node("ESCDiffExport", attribute=shape, form="embedding", name=f"{name}_token")
    texts = [
        stock("CLIPTextEncode", "encode", clip=clip, text=text)[0]
        for text in (prompt.format(f"embedding:{name}_token"), "")
    ]
    for form in ("full", "lora")[:1 + (name == "sdxl")]:
        node("ESCDiffExport", attribute=shape, form=form, name=f"{name}_{form}")
        file = f"{name}_{form}.safetensors"
        loaded, _ = stock("LoraLoader", "load_lora", model=model, clip=clip, lora_name=file,
                          strength_model=1.0, strength_clip=1.0)
        found[name][f"export {form}"] = largest(ours, short(loaded, *texts)) / float(ours.abs().max())
        tensors = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", file))
        known = comfy.lora.model_lora_keys_unet(model.model, {})
        patches = comfy.lora.load_lora(tensors, known, log_missing=False)
        found[name][f"export {form} keys"] = [
            len(model.clone().add_patches(patches, 1.0)),
            len(patches),
            len({
                n.rpartition(".")[0].removesuffix(".lora_up").removesuffix(".lora_down") + (n.endswith(
                    (".diff_b",)) * "b")
                for n in tensors
            })
        ]
    behind = stock("LoraLoader", "load_lora", model=node("ESCDiffApply", model=model, shape=shape)[0],
                   clip=clip, lora_name=f"{name}_full.safetensors", strength_model=-1.0, strength_clip=1.0)[0]
    look = {"prompt": "a *a star", "negative": "", "appearance": stronger(made["appearance"]), "clip": clip}
    lora = {"lora_name": f"{name}_full.safetensors", "strength_model": 0.5}
    with_it = stock("LoraLoaderModelOnly", "load_lora_model_only", model=model, **lora)[0]
    first = short(*node("ESCDiffMix", model=with_it, **look)[:3])
    mixed, *rows = node("ESCDiffMix", model=model, **look)[:3]
    after = short(stock("LoraLoaderModelOnly", "load_lora_model_only", model=mixed, **lora)[0], *rows)
    found[name]["LoRA before and behind"] = [
        largest(first, other) / float(first.abs().max()) for other in (after, short(mixed, *rows))
    ]
    found[name]["LoRA behind takes it back"] = largest(short(behind, *texts), short(model, *texts)) / float(
        ours.abs().max()
    )


def main() -> None:
    load_pack()
    with torch.inference_mode():
        few_views()
        shrink()
        for name in ("sd2", "sdxl"):
            began = time.monotonic()
            try:
                model, clip, vae = stock(
                    "CheckpointLoaderSimple", "load_checkpoint", ckpt_name=f"{name}_random.safetensors"
                )
                laps = [time.monotonic()]
                parity(name, model, clip, vae)
                laps.append(time.monotonic())
                made = learned(name, model, clip, vae)
                laps.append(time.monotonic())
                mixing(name, model, clip, vae, made)
                laps.append(time.monotonic())
                exports(name, model, clip, made)
                laps.append(time.monotonic())
                print("parity, learned, mixing, exports:", *(round(b - a) for a, b in pairwise(laps)))
            except Exception:      # the other sections' findings are worth having; a test looks at this one
                found.setdefault(name, {})["failed"] = traceback.format_exc()
            model = clip = vae = made = None
            gc.collect()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"{name}: {time.monotonic() - began:.0f} s, up to {peak:.1f} GiB", flush=True)
    print("FOUND " + json.dumps(found))


if __name__ == "__main__":
    main()
