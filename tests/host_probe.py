"""Runs inside one real ComfyUI's environment: loads the pack as ComfyUI does and prints what it finds as
JSON.

``python host_probe.py HOST BASE PACK``; called by test_host.py.
"""

import asyncio
import json
import time
import traceback
from dataclasses import replace

import host_probe_cost as cost
import host_probe_more as more
import host_small_work
from host_probe_base import (
    HOST,
    PACK,
    core,
    draw,
    few_views,
    found,
    hash_of,
    host_nodes,
    largest,
    node,
    stock,
    torch,
)
from host_probe_exports import exports
from host_probe_mistakes import said, wrong_inputs
from hosts import is_between, is_newest


def load_pack() -> None:
    import comfy_api.latest  # noqa: F401 - ComfyUI itself has it by then

    began = time.process_time()      # other tests run beside this one: what they take is not the pack's
    found["loaded"] = asyncio.run(host_nodes.load_custom_node(str(PACK)))
    found["import_seconds"] = time.process_time() - began
    own = {n: c for n, c in host_nodes.NODE_CLASS_MAPPINGS.items() if n.startswith("ESCDiff")}
    found["nodes"] = sorted(own)
    untold = []
    for name, cls in own.items():
        made = cls.GET_SCHEMA()
        untold += [f"{name}.{i.id}" for i in [*made.inputs, *made.outputs] if not i.tooltip]
        untold += [] if made.description else [name]
        cls.INPUT_TYPES()
    found["without_tooltip"] = untold


def parity(model, clip, vae):
    copy = core("nodes.host.export").private_model(model, clip, vae)
    direct = core("escdiff_core.families.load").load_model("pocket", "cpu")
    x, t = torch.randn(2, 4, 16, 16), torch.tensor([100.0, 700.0])
    text = "a photo of a red and white striped star on a blue background"
    mine = core("escdiff_core.model.text").encode_prompts(direct, [text]).context
    found["text_difference"] = largest(clip.encode_from_tokens(clip.tokenize(text)), mine)
    context = mine.expand(2, -1, -1)
    theirs = model.model.diffusion_model(x, t, context=context)
    found["unet_difference"] = max(
        largest(theirs, m.unet(x, t, encoder_hidden_states=context).sample) for m in (copy, direct)
    )
    picture = torch.rand(1, 128, 128, 3)
    latents = core("escdiff_core.model.autoencoder").image_to_latents(direct, picture)
    found["vae_difference"] = largest(vae.encode(picture) * direct.vae.config.scaling_factor, latents)
    found["fingerprints"] = [
        copy.fingerprint,
        direct.fingerprint,
        core("nodes.host.export").base_fingerprint(model),
    ]
    found["usual_guidance"] = [copy.usual_guidance, direct.usual_guidance]
    return direct


def learning(model, clip, vae, encoder, before):
    modules = (model.model, clip.cond_stage_model, vae.first_stage_model)
    plain = clip.encode_from_tokens_scheduled(clip.tokenize("a red star"))
    draw(model, plain, plain)       # lets the host take the LoRA of the test before out of the shared module
    made = {}
    for kind, example in (("shape", 0), ("appearance", -1)):
        names = core("nodes.reference").example_names()
        image, mask = node("ESCDiffExampleReference", example=names[example])
        features = node("ESCDiffReferenceFeatures", model=model, clip=clip, vae=vae, image=image, mask=mask,
                        encoder=encoder)[0]
        token = node(f"ESCDiff{kind.capitalize()}Filter", features=features, class_word="")[0]
        made[kind], plot = node("ESCDiffTune", model=model, clip=clip, vae=vae, token=token,
                                recipe=f"escdiff-{kind}", steps=4, seed=0, describe="", batch_size=2,
                                preview_every=2)
        found[f"{kind}_plot"] = list(plot.shape)
    found["model_unchanged"] = hash_of(*modules) == before
    found["wrong_kind"] = said("ESCDiffTune", model=model, clip=clip, vae=vae, token=token,
                                    recipe="escdiff-shape", steps=1, seed=0, describe="")
    found["model_unchanged_after_an_error"] = hash_of(*modules) == before
    # a prompt for each half, so that routing has something to do; what the recipes learned is looked at in
    # more.layouts
    return {kind: replace(attribute, reach="own") for kind, attribute in made.items()}


def routing(model, clip, vae, direct, made, before):
    prompt = "a photo of a *m with *a appearance on a white background"
    mixed, positive, negative, knowing = node(
        "ESCDiffMix", model=model, clip=clip, prompt=prompt, negative="", **made
    )
    texts = [
        stock("CLIPTextEncode", "encode", clip=c, text="a (*m:1.2), on a table")[0][0][0]
        for c in (knowing, clip)
    ]
    found["clip_knows_the_token"] = largest(*texts)
    seen = []

    def keep(call, given):
        out = call(given["input"], given["timestep"], **given["c"])
        seen.append((given["input"], given["timestep"], given["c"], out))
        return out

    watched = mixed.clone()
    watched.set_model_unet_function_wrapper(keep)
    plain_out = draw(mixed, positive, negative)
    found["wrapper_sees_the_same"] = largest(plain_out, draw(watched, positive, negative))
    x, sigma, given, out = seen[0]
    found["cfg_in_one_batch"] = len(x) == 2 and len(seen) == 3
    method = core("escdiff_core.mixing.mix")
    variant = method.Mix(direct, method.Use(made["shape"]), method.Use(made["appearance"])).variant(0.5)
    sampling = model.get_model_object("model_sampling")
    width = given["c_crossattn"].shape[-1]
    order = [prompt, ""] if torch.allclose(given["c_crossattn"][0], positive[0][0][0, :, :width],
                                           atol=1e-5) else ["", prompt]
    context = torch.cat([variant.states(p).context for p in order])
    answer = variant.unet(
        sampling.calculate_input(sigma, x), sampling.timestep(sigma), encoder_hidden_states=context
    ).sample
    found["routed_difference"] = largest(out, sampling.calculate_denoised(sigma, answer, x))
    found["routed_scale"] = float(out.abs().max())

    plain = clip.encode_from_tokens_scheduled(clip.tokenize("a red star"))
    empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    stock_out = draw(model, plain, empty)
    nothing = node("ESCDiffMix", model=model, clip=clip, prompt="a red star", negative="")
    found["no_attribute_is_stock"] = torch.equal(draw(*nothing[:3]), stock_out)
    off = node("ESCDiffMix", model=model, clip=clip, prompt="a red star", negative="", **made,
               shape_strength=0.0, appearance_strength=0.0)
    found["strength_zero_is_stock"] = torch.equal(draw(*off[:3]), stock_out)
    texts = [stock("CLIPTextEncode", "encode", clip=c, text=t)[0][0][0] for c, t in (
        (off[3], "a *m on a table"), (clip, f"a {made['shape'].word} on a table"), (clip, "a *m on a table"))]
    found["strength_zero_in_a_text_node"] = [largest(texts[0], other) for other in texts[1:]]
    routed = core("nodes.host.routing")
    clone = model.clone()
    routed.route_prompts(clone, [variant.route])
    found["route_without_payload_is_stock"] = torch.equal(draw(clone, plain, empty), stock_out)
    rider = routed.PAYLOAD.format(0, 1)
    same = [
        [[rows[0][0], {**rows[0][1], "model_conds": {rider: routed.comfy.conds.CONDCrossAttn(rows[0][0])}}]]
        for rows in (plain, empty)
    ]
    found["same_prompt_in_both_is_stock"] = largest(draw(clone, *same), stock_out)
    found["mixing_changes_the_picture"] = largest(draw(mixed, positive, negative), stock_out)
    cleared, more_of_it = node("ESCDiffClear", conditioning=positive)[0][0]
    found["clear_takes_it_out"] = [
        type(cleared).__name__,
        torch.equal(cleared, variant.states(prompt).context[:, :77]),
        [name for name in more_of_it if "escdiff" in name],
    ]
    alone = draw(mixed, positive, negative, cfg=1.0)
    found["cfg_1"] = [largest(alone, draw(mixed, positive, positive)), largest(alone, plain_out)]
    three = draw(mixed, positive, negative, batch=3)
    found["batch_3"] = [list(three.shape), largest(three[:1], plain_out), largest(three[1], three[2])]
    found["prompt_lengths"] = []
    for times in (1, 6, 12):
        long = node(
            "ESCDiffMix", model=model, clip=clip, negative="", **made, prompt=" ".join([prompt] * times)
        )
        found["prompt_lengths"].append([long[1][0][0].shape[1], bool(torch.isfinite(draw(*long[:3])).all())])
    half = torch.zeros(1, 128, 128)
    half[:, :, :64] = 1
    halves = {
        "area": stock("ConditioningSetArea", "append", conditioning=positive, width=64, height=128, x=0, y=0,
                      strength=1.0), "mask": stock("ConditioningSetMask", "append", conditioning=positive,
                                                   mask=half, set_cond_area="default", strength=1.0)
    }
    everywhere = draw(mixed, plain, negative, steps=1, side=16)
    for name, (rows,) in halves.items():
        both = stock("ConditioningCombine", "combine", conditioning_1=rows, conditioning_2=plain)[0]
        # one step: behind it what is drawn in one half reaches the other
        out = draw(mixed, both, negative, steps=1, side=16)
        found[name] = [
            largest(a, b) / float(everywhere.abs().max())
            for a, b in zip(out.split(8, -1), everywhere.split(8, -1), strict=True)
        ]
    # the next sampling of the user's own model takes the attributes' patches out
    draw(model, plain, empty)
    found["model_unchanged_after_mixing"] = (
        hash_of(model.model, clip.cond_stage_model, vae.first_stage_model) == before
    )


def sd15():
    """A random checkpoint in SD 1.5's layout through the stock loader: the private copy, clip skip, and one
    step of learning."""
    host_small_work.small_pictures(core("escdiff_core.families").FAMILIES)
    model, clip, vae = stock(
        "CheckpointLoaderSimple", "load_checkpoint", ckpt_name="v1-5-pruned-emaonly-fp16.safetensors"
    )
    for skip in (None, -2):
        used = stock("CLIPSetLastLayer", "set_last_layer", clip=clip,
                     stop_at_clip_layer=skip)[0] if skip else clip
        copy = core("nodes.host.export").private_model(model, used, vae)
        text = "a photo of a red star"
        mine = core("escdiff_core.model.text").encode_prompts(copy, [text]).context
        found[f"sd15_text_difference_{skip}"] = largest(used.encode_from_tokens(used.tokenize(text)), mine)
    x, t = torch.randn(1, 4, 16, 16), torch.tensor([500.0])
    import comfy.model_management

    comfy.model_management.load_models_gpu([model])
    weights = next(model.model.diffusion_model.parameters()).dtype
    theirs = model.model.diffusion_model(x.to(weights), t, context=mine.to(weights)).float()
    found["sd15_unet_difference"] = largest(theirs, copy.unet(x, t, encoder_hidden_states=mine).sample)
    half = core("nodes.host.export").private_model(model, used, vae, torch.bfloat16)
    answer = half.unet(x.bfloat16(), t, encoder_hidden_states=mine.bfloat16()).sample.float()
    hosts = {p.data_ptr() for p in (*model.model.parameters(), *clip.cond_stage_model.parameters())}
    found["sd15_half"] = [
        sorted({str(p.dtype) for p in (*half.unet.parameters(), *half.text_encoder.parameters())}),
        largest(theirs, answer) / float(theirs.abs().max()),
        len(hosts & {p.data_ptr() for p in (*half.unet.parameters(), *copy.unet.parameters())})
    ]
    half = None
    name = "diffusion_model.input_blocks.1.1.proj_in.weight"
    patched = model.clone()
    patched.add_patches(
        {name: ("diff", (0.1 * torch.randn(dict(model.model.named_parameters())[name].shape),))}, 0.7
    )
    baked = (
        core("nodes.host.export")
        .private_model(patched, used, vae)
        .unet(x, t, encoder_hidden_states=mine)
        .sample
    )
    comfy.model_management.load_models_gpu([patched], force_patch_weights=True)
    theirs = patched.model.diffusion_model(x.to(weights), t, context=mine.to(weights)).float()
    found["sd15_lora_difference"] = [
        largest(theirs, baked),
        largest(baked, copy.unet(x, t, encoder_hidden_states=mine).sample),
    ]
    found["sd15_family"] = type(model.model.model_config).__name__
    picture = torch.rand(1, 512, 512, 3)
    mask = torch.zeros(1, 512, 512)
    mask[:, 100:400, 100:400] = 1
    made, _ = node("ESCDiffLearnAttribute", model=model, clip=clip, vae=vae, image=picture, kind="appearance",
                   mask=mask, recipe="recipe's own", steps=1, seed=0, describe="", batch_size=1,
                   preview_every=0)
    found["sd15_learned"] = [made.kind, made.steps]
    mixed = node(
        "ESCDiffMix", model=model, clip=clip, prompt="a cat with *a appearance", negative="", appearance=made
    )
    found["sd15_mix"] = bool(torch.isfinite(draw(*mixed[:3])).all())


def main() -> None:
    load_pack()
    torch.manual_seed(0)
    with torch.inference_mode():
        few_views()
        model, clip, vae, encoder = node("ESCDiffLoadPocketModel")
        before = hash_of(model.model, clip.cond_stage_model, vae.first_stage_model)
        direct = parity(model, clip, vae)
        more.with_lora(model, clip, vae)
        made = learning(model, clip, vae, encoder, before)
        found["failed"], took = {}, {}
        user_s = (model, clip, vae)
        for section, arguments in (
            (routing, (*user_s, direct, made, before)),
            *[(part, (model, clip, direct, made))
              for part in (more.layouts, more.overlaps, more.schedule) if not is_between(HOST)],
            (more.control, (model, clip, made)),
            (exports, (model, clip, made)),
            (more.loras, (model, clip, made)),
            (more.cancel, (*user_s, encoder, before)),
            (wrong_inputs, (*user_s, made)),
            (cost.work, (model, clip, made)),
            *[(part, (model, clip, made)) for part in (cost.again, cost.timing) if is_newest(HOST)],
            (sd15, ()),
        ):
            began = time.monotonic()
            try:
                section(*arguments)
            except Exception:      # the other sections' findings are worth having; a test looks at this one
                found["failed"][section.__name__] = traceback.format_exc()[-3000:]
            took[section.__name__] = round(time.monotonic() - began)
    print("seconds:", took)
    print("FOUND " + json.dumps(found))


if __name__ == "__main__":
    main()
