"""More of what host_probe.py looks for: schedules, ControlNet, LoRAs, cancel and wrong inputs."""

import sys
from dataclasses import replace
from unittest import mock

from host_probe_base import core, draw, found, hash_of, largest, node, stock, torch

PROMPT = "a photo of a *m with *a appearance on a white background"
LATENT = {"samples": torch.zeros(1, 4, 16, 16)}


def beside_headless(model, result, both, steps=6):
    """Sample a mix node's ``result``; returns the largest difference to the headless mix ``both`` over all
    steps, relative to what is computed, the sets of kinds that were active, and whether every step was one
    batch of two."""
    seen = []
    mixed, positive, negative = result[0].clone(), *result[1:3]

    def keep(call, given):
        out = call(given["input"], given["timestep"], **given["c"])
        seen.append((given["input"], given["timestep"], given["c"], out))
        return out

    mixed.set_model_unet_function_wrapper(keep)
    stock("KSampler", "sample", model=mixed, seed=1, steps=steps, cfg=3.0, sampler_name="euler",
          scheduler="normal", positive=positive, negative=negative, latent_image=LATENT, denoise=1.0)
    sampling, worst, sets = model.get_model_object("model_sampling"), 0.0, set()
    for x, sigma, given, out in seen:
        t = sampling.timestep(sigma)
        variant = both.variant(1 - (float(t[0]) + 1) / 1000)
        sets.add(tuple(u.attribute.kind for u in variant.active))
        states = {text: variant.states(text).context for text in (PROMPT, "")}
        main = given["c_crossattn"][:, :77]
        order = sorted(states, key=lambda text: largest(states[text][:, :77], main[:1]))
        context = torch.cat([states[text] for text in order])
        answer = variant.unet(sampling.calculate_input(sigma, x), t, encoder_hidden_states=context).sample
        worst = max(
            worst,
            largest(out, sampling.calculate_denoised(sigma, answer, x)) / max(1.0, float(out.abs().max())),
        )
    return worst, sorted(map(list, sets)), len(seen) == steps and all(len(x) == 2 for x, *_ in seen)


def layouts(model, clip, direct, made):
    """Tokens that every block sees, tokens with a vector per layer, and tokens with one per stage, beside the
    headless mix."""
    method, stages = core("escdiff_core.mixing.mix"), core("escdiff_core.choices").STAGES
    generator, different = torch.Generator().manual_seed(5), {}
    for name, layout, count in (("all", "one", 1), ("layers", "layers", 16), ("stages", "stages", stages),
                                ("both", "layers+stages", 16 * stages)):
        uses = {}
        for kind, attribute in made.items():
            rows = attribute.embeddings["clip_l"].repeat(count, 1)
            rows = rows + 0.3 * rows.std() * torch.randn(rows.shape, generator=generator)
            uses[kind] = replace(attribute, reach="all", layout=layout, embeddings={"clip_l": rows})
        both = method.Mix(direct, *(method.Use(a) for a in uses.values()))
        result = node("ESCDiffMix", model=model, clip=clip, prompt=PROMPT, negative="", **uses)
        different[name] = [
            both.variant(0.5).route.slots,
            len(both.parts),
            *beside_headless(model, result, both),
        ]
        clip_out = stock("CLIPTextEncode", "encode", clip=result[3], text=PROMPT)[0]
        different[name].append(clip_out[0][0].shape[1])
    found["layouts"] = different


def overlaps(model, clip, direct, made):
    """Both attributes on the same weights, divided and added, at unlike strengths and with the middle the
    appearance's."""
    method, different = core("escdiff_core.mixing.mix"), {}
    names = [n for n in made["shape"].delta if n in made["appearance"].delta]
    found["overlapping_tensors"] = len(names)
    for overlap in core("escdiff_core.choices").OVERLAPS:
        both = method.Mix(direct, method.Use(made["shape"], 0.7), method.Use(made["appearance"]),
                          "appearance", overlap=overlap)
        result = node("ESCDiffMix", model=model, clip=clip, prompt=PROMPT, negative="", **made,
                      shape_strength=0.7, middle="appearance", overlap=overlap)
        different[overlap] = (beside_headless(model, result, both)[0], draw(*result[:3]))
    found["overlaps"] = {overlap: worst for overlap, (worst, _) in different.items()}
    found["overlaps_differ"] = largest(*(picture for _, picture in different.values()))


def schedule(model, clip, direct, made):
    """With a start and an end, each step computes what the headless mix computes at that point, still in one
    batch."""
    method, seen = core("escdiff_core.mixing.mix"), []
    plain = clip.encode_from_tokens_scheduled(clip.tokenize("a red star"))
    before = draw(model, plain, plain)
    both = method.Mix(direct, method.Use(made["shape"], end=0.65), method.Use(made["appearance"], start=0.35))
    result = node("ESCDiffMix", model=model, clip=clip, prompt=PROMPT, negative="", **made, shape_end=0.65,
                  appearance_start=0.35)
    worst, sets, one_batch = beside_headless(model, result, both)
    found["schedule_difference"], found["schedule_sets"], found[
        "schedule_in_one_batch"] = worst, sets, one_batch
    late = method.Mix(direct, method.Use(made["shape"]), method.Use(made["appearance"], start=0.35))
    result = node(
        "ESCDiffMix", model=model, clip=clip, prompt=PROMPT, negative="", **made, appearance_start=0.35
    )
    found["schedule_beside_always"] = beside_headless(model, result, late)
    parts = core("nodes.host.mixing").mix(model, *late.given).parts
    hooked = {
        n.removeprefix("diffusion_model.") for p in parts for hook in p.hooks.hooks for n in hook.weights
    }
    found["hooked"] = [len(hooked), len(hooked - set(made["appearance"].delta)), len(made["shape"].delta)]

    def keep(call, given):
        seen.append(given["timestep"])
        return call(given["input"], given["timestep"], **given["c"])

    border = node("ESCDiffMix", model=model, clip=clip, prompt=PROMPT, negative="", **made, shape_end=0.6)
    mixed = border[0].clone()
    mixed.set_model_unet_function_wrapper(keep)
    stock("KSampler", "sample", model=mixed, seed=1, steps=30, cfg=3.0, sampler_name="euler",
          scheduler="sgm_uniform", positive=border[1], negative=border[2], latent_image=LATENT, denoise=1.0)
    found["schedule_steps_on_a_border"] = len(seen)
    found["schedule_leaves_the_model"] = torch.equal(draw(model, plain, plain), before)


def control(model, clip, made):
    """A ControlNet with random weights, through the stock node, on stock and on mixed conditionings."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    foreign = ("out_channels", "disable_unet_model_creation", "transformer_depth_output", "device", "dtype",
               "operations")
    config = {k: v for k, v in model.model.model_config.unet_config.items() if k not in foreign}
    with torch.inference_mode(False):
        net = comfy.cldm.cldm.ControlNet(
            hint_channels=3, operations=comfy.ops.manual_cast, device="cpu", dtype=torch.float32, **config
        )
        for name, tensor in net.state_dict().items():
            torch.nn.init.normal_(tensor, 1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.05)
    given = comfy.controlnet.ControlNet(net, manual_cast_dtype=None, load_device=torch.device("cpu"))

    def held(positive, negative):
        return stock("ControlNetApplyAdvanced", "apply_controlnet", positive=positive, negative=negative,
                     control_net=given, image=torch.rand(1, 128, 128, 3,
                                                         generator=torch.Generator().manual_seed(3)),
                     strength=0.5, start_percent=0.0, end_percent=1.0)

    rows = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red star", "")]
    nothing = node("ESCDiffMix", model=model, clip=clip, prompt="a red star", negative="")
    stock_out = draw(model, *held(*rows))
    found["control_acts"] = largest(stock_out, draw(model, *rows))
    found["control_without_attributes_is_stock"] = torch.equal(
        draw(nothing[0], *held(*nothing[1:3])), stock_out
    )
    mixed = node("ESCDiffMix", model=model, clip=clip, prompt=PROMPT, negative="", **made)
    controlled = draw(mixed[0], *held(*mixed[1:3]))
    found["control_on_a_mix"] = [
        bool(torch.isfinite(controlled).all()),
        largest(controlled, draw(*mixed[:3])),
    ]


def loras(model, clip, made):
    """A stock LoRA before the mix and behind it gives the same picture, and one that differs from none."""
    lora = {"lora_name": "probe_delta.safetensors", "strength_model": 0.5}
    only = {"appearance": made["appearance"]}
    prompts = {"prompt": "a *a star on a white background", "negative": ""}
    before = stock("LoraLoaderModelOnly", "load_lora_model_only", model=model, **lora)[0]
    first = draw(*node("ESCDiffMix", model=before, clip=clip, **prompts, **only)[:3])
    mixed = node("ESCDiffMix", model=model, clip=clip, **prompts, **only)
    after = stock("LoraLoaderModelOnly", "load_lora_model_only", model=mixed[0], **lora)[0]
    found["lora_before_and_after"] = largest(first, draw(after, *mixed[1:3])) / float(first.abs().max())
    found["lora_shows"] = largest(first, draw(*mixed[:3]))
    zeroed = stock("ConditioningZeroOut", "zero_out", conditioning=mixed[2])[0]
    clear = node("ESCDiffClear", conditioning=zeroed)[0]
    found["zeroed_negative"] = bool(torch.isfinite(draw(mixed[0], mixed[1], clear)).all())


def cancel(model, clip, vae, encoder, before):
    """The user's cancel ends learning within one step and leaves the model as it was."""
    import comfy.model_management as host
    import comfy.utils

    plain = clip.encode_from_tokens_scheduled(clip.tokenize("a red star"))
    draw(model, plain, plain)       # lets the host take the patches of earlier tests out of the shared module
    names = core("nodes.reference").example_names()
    image, mask = node("ESCDiffExampleReference", example=names[1])
    moved, usual = [], comfy.utils.ProgressBar.update_absolute

    def pressed(self, value, *rest, **more):
        moved.append(value)
        if value == 2:
            host.interrupt_current_processing()
        return usual(self, value, *rest, **more)

    comfy.utils.ProgressBar.update_absolute = pressed
    try:
        node("ESCDiffLearnAttribute", model=model, clip=clip, vae=vae, encoder=encoder, image=image,
             mask=mask, kind="shape", steps=50, seed=5, describe="", batch_size=2)
        found["cancelled"] = "not at all"
    except host.InterruptProcessingException:
        found["cancelled"] = moved
    finally:
        comfy.utils.ProgressBar.update_absolute = usual
        host.interrupt_current_processing(False)
    found["model_unchanged_after_cancel"] = (
        hash_of(model.model, clip.cond_stage_model, vae.first_stage_model) == before
    )


def said(node_id: str, **inputs) -> str:
    try:
        node(node_id, **inputs)
    except core("escdiff_core.errors").ESCDiffError as error:
        return f"ESCDiffError: {error}"
    except Exception as error:      # whatever comes out is what the user reads
        return f"{type(error).__name__}: {error}"
    return "no error"


def without(module: str, call):
    """What ``call`` returns where ``module`` is not installed."""
    with mock.patch.dict(sys.modules, {module: None}):
        return call()


def fingerprints(model) -> dict[str, str]:
    """What an attribute of merged models would be said to belong to."""
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    generator, other = torch.Generator().manual_seed(2), model.clone()
    other.add_patches({n: ("diff", (0.1 * torch.randn(t.shape, generator=generator),))
                       for n, t in model.model.state_dict().items() if n.endswith("attn2.to_v.weight")})
    shares = {"other": 0.0, "half": 0.5, "none of it": 1.0}                       # of the first model
    models = {name: ModelMergeSimple().merge(model, other, share)[0] for name, share in shares.items()}
    return {
        name: core("nodes.host.export").base_fingerprint(m)
        for name, m in {"alone": model, "LoRA": other, **models}.items()
    }


def wrong_inputs(model, clip, vae, made):
    """Models of other families (their classes without weights), no CLIP, a video, a mask of another size,
    another base."""
    from dataclasses import replace

    import comfy.ldm.flux.model
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    sdxl = {
        "image_size": 32, "use_spatial_transformer": True, "legacy": False, "in_channels": 4,
        "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1], "channel_mult": [1, 2],
        "transformer_depth": [0, 1], "transformer_depth_output": [0, 0, 1, 1], "transformer_depth_middle": 1,
        "context_dim": 64, "adm_in_channels": 2816, "use_linear_in_transformer": True,
        "num_head_channels": 32, "num_classes": "sequential"
    }
    flux = {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 32, "context_in_dim": 32,
        "hidden_size": 96, "mlp_ratio": 2.0, "num_heads": 1, "depth": 1, "depth_single_blocks": 1,
        "axes_dim": [32, 32, 32], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": False
    }
    if "txt_ids_dims" in comfy.ldm.flux.model.FluxParams.__dataclass_fields__:      # of newer hosts
        flux["txt_ids_dims"] = []
    cpu = torch.device("cpu")
    others = {}
    with torch.inference_mode(False):
        for name, config, cls in (
            ("SDXL", sdxl, comfy.model_base.SDXL),
            ("Flux", flux, comfy.model_base.Flux),
        ):
            given = getattr(comfy.supported_models, name)(config)
            given.set_inference_dtype(torch.float32, None)
            others[name] = comfy.model_patcher.ModelPatcher(cls(given, device=cpu), cpu, cpu)
    image = torch.rand(1, 128, 128, 3)
    learn = {
        "model": model, "clip": clip, "vae": vae, "image": image, "kind": "shape", "steps": 1, "seed": 0,
        "describe": ""
    }
    mixing = {"model": model, "clip": clip, "prompt": PROMPT, "negative": ""}
    strange = replace(made["shape"], base_fingerprint="0" * len(made["shape"].base_fingerprint))
    scheduled = node("ESCDiffMix", **mixing, shape=made["shape"], shape_end=0.5)[0]
    both = node("ESCDiffMix", **mixing, shape=made["shape"])
    second = node(
        "ESCDiffMix", **{**mixing, "model": both[0], "clip": both[3]}, appearance=made["appearance"]
    )
    found["second_mix_keeps_the_first"] = sorted(second[3].tokenizer.tokenize_with_weights.vectors)
    prompts, width = core("nodes.host.prompts"), made["shape"].embeddings["clip_l"].shape[1]
    rows = [{"clip_l": r} for r in torch.randn(2, 1, width, generator=torch.Generator().manual_seed(4))]
    at_once = prompts.clip_with_tokens(clip, {"token": rows[0], "*m": rows[1]})
    in_turn = prompts.clip_with_tokens(prompts.clip_with_tokens(clip, {"token": rows[0]}), {"*m": rows[1]})
    read = [prompts.encode(c, "a token of *m")[0][0] for c in (at_once, in_turn, clip)]
    found["stacked_tokens_difference"], found["stacked_tokens_change"] = (
        largest(*read[:2]),
        largest(*read[1:]),
    )
    merged = fingerprints(model)
    found["merges"] = [merged[name] == merged["alone"] for name in ("other", "half", "none of it", "LoRA")]
    found["merges_differ"] = merged["other"] != merged["half"]
    seen = node("ESCDiffReferenceFeatures", model=model, clip=clip, vae=vae, image=learn["image"])[0]
    token = node("ESCDiffAppearanceFilter", features=replace(seen, base="of another model"))[0]
    # as the host's bicubic scaling leaves a picture
    bright = 1.4 * learn["image"] - 0.2
    seen = (
        node("ESCDiffReferenceFeatures", model=model, clip=clip, vae=vae, image=bright)[0].references[0].image
    )
    found["beyond_white"] = [float(bright.max()) > 1, float(seen.min()), float(seen.max())]
    found["wrong"] = {
        "after a schedule": said(
            "ESCDiffMix", **{**mixing, "model": scheduled}, appearance=made["appearance"]
        ),
        "token twice": said("ESCDiffMix", **{**mixing, "model": both[0]}, shape=made["shape"]),
        "features of another": said(
            "ESCDiffTune",
            model=model,
            clip=clip,
            vae=vae,
            token=token,
            recipe="escdiff-appearance",
            steps=1,
            seed=0,
            describe="",
        ),
        "kind": said("ESCDiffLearnAttribute", **{**learn, "kind": "colour"}),
        "no outline": said("ESCDiffLearnAttribute", **learn),
        "SDXL learn": said("ESCDiffLearnAttribute", **{**learn, "model": others["SDXL"]}),
        "SDXL mix": said("ESCDiffMix", **{**mixing, "model": others["SDXL"]}, shape=made["shape"]),
        "Flux mix": said("ESCDiffMix", **{**mixing, "model": others["Flux"]}, shape=made["shape"]),
        "no clip": said("ESCDiffMix", **{**mixing, "clip": None}, shape=made["shape"]),
        "no clip, learn": said("ESCDiffLearnAttribute", **{**learn, "clip": None}),
        "no vae": said("ESCDiffLearnAttribute", **{**learn, "vae": None}),
        "no judge": without("ot", lambda: said("ESCDiffScore", images=torch.rand(1, 64, 64, 3))),
        "video": said("ESCDiffLearnAttribute", **{**learn, "image": torch.rand(40, 128, 128, 3)}),
        "mask size": said("ESCDiffLearnAttribute", **learn, mask=torch.ones(1, 64, 96)),
        "other size": said(
            "ESCDiffMix",
            **mixing,
            shape=replace(made["shape"], delta={n: torch.ones(3, 5) for n in list(made["shape"].delta)[:2]}),
        ),
        "other base": said("ESCDiffMix", **mixing, shape=strange),
        "schedule": said("ESCDiffMix", **mixing, shape=made["shape"], shape_start=0.8, shape_end=0.2),
    }
