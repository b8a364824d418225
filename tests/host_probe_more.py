"""More of what host_probe.py looks for: layouts, overlaps, schedules, ControlNet, LoRAs and cancel."""

from dataclasses import replace

from host_probe_base import (
    control_net,
    controlled,
    core,
    draw,
    empty,
    found,
    hash_of,
    largest,
    node,
    stock,
    torch,
)

PROMPT = "a photo of a *m with *a appearance on a white background"


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
          scheduler="normal", positive=positive, negative=negative, latent_image=empty(), denoise=1.0)
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
            *beside_headless(model, result, both, steps=6 if "stages" in layout else 2),
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
    names = core("escdiff_core.attribute.tensors").tensor_names
    shape, look = (set(names(made[kind].delta)) for kind in ("shape", "appearance"))
    found["hooked"] = [len(hooked), len(hooked - look), len(shape)]

    def keep(call, given):
        seen.append(given["timestep"])
        return call(given["input"], given["timestep"], **given["c"])

    border = node("ESCDiffMix", model=model, clip=clip, prompt=PROMPT, negative="", **made, shape_end=0.6)
    mixed = border[0].clone()
    mixed.set_model_unet_function_wrapper(keep)
    stock("KSampler", "sample", model=mixed, seed=1, steps=30, cfg=3.0, sampler_name="euler",
          scheduler="sgm_uniform", positive=border[1], negative=border[2], latent_image=empty(), denoise=1.0)
    found["schedule_steps_on_a_border"] = len(seen)
    found["schedule_leaves_the_model"] = torch.equal(draw(model, plain, plain), before)


def control(model, clip, made):
    """A ControlNet with random weights, through the stock node, on stock and on mixed conditionings."""
    given = control_net(model)
    rows = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red star", "")]
    nothing = node("ESCDiffMix", model=model, clip=clip, prompt="a red star", negative="")
    stock_out = draw(model, *controlled(given, *rows))
    found["control_acts"] = largest(stock_out, draw(model, *rows))
    found["control_without_attributes_is_stock"] = torch.equal(
        draw(nothing[0], *controlled(given, *nothing[1:3])), stock_out
    )
    mixed = node("ESCDiffMix", model=model, clip=clip, prompt=PROMPT, negative="", **made)
    drawn = draw(mixed[0], *controlled(given, *mixed[1:3]))
    found["control_on_a_mix"] = [bool(torch.isfinite(drawn).all()), largest(drawn, draw(*mixed[:3]))]


def with_lora(model, clip, vae):
    """A stock-style LoRA baked into the private copy computes what the host computes with it."""
    name = "diffusion_model.input_blocks.1.1.proj_in.weight"
    shape = dict(model.model.named_parameters())[name].shape
    patched = model.clone()
    patched.add_patches({name: ("diff", (0.1 * torch.randn(shape),))}, 0.7)
    copy = core("nodes.host.export").private_model(patched, clip, vae)
    x, t, context = torch.randn(1, 4, 16, 16), torch.tensor([500.0]), torch.randn(1, 77, 192)
    mine = copy.unet(x, t, encoder_hidden_states=context).sample
    import comfy.model_management

    comfy.model_management.load_models_gpu([patched], force_patch_weights=True)
    theirs = patched.model.diffusion_model(x, t, context=context)
    found["lora_difference"] = largest(mine, theirs)
    found["lora_changes"] = largest(mine, core("nodes.host.export").private_model(model, clip, vae).unet(
        x, t, encoder_hidden_states=context).sample)
    found["lora_fingerprint_is_the_base_s"] = copy.fingerprint == core("nodes.host.export").base_fingerprint(
        model
    )


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


def merged(model, other, share: float):
    """As ModelMergeSimple puts ``other`` onto ``share`` of a model, which takes seconds to do it weight by
    weight."""
    both = model.clone()
    both.add_patches(other.get_key_patches("diffusion_model."), 1.0 - share, share)
    return both


def fingerprints(model) -> dict[str, str]:
    """What an attribute of merged models would be said to belong to."""
    generator, other = torch.Generator().manual_seed(2), model.clone()
    other.add_patches({n: ("diff", (0.1 * torch.randn(t.shape, generator=generator),))
                       for n, t in model.model.state_dict().items() if n.endswith("attn2.to_v.weight")})
    shares = {"other": 0.0, "half": 0.5, "none of it": 1.0}                       # of the first model
    models = {name: merged(model, other, share) for name, share in shares.items()}
    return {
        name: core("nodes.host.export").base_fingerprint(m)
        for name, m in {"alone": model, "LoRA": other, **models}.items()
    }
