"""Part of host_probe: what a node says of wrong inputs."""

import sys
from dataclasses import replace
from unittest import mock

from host_probe_base import core, found, largest, node, torch
from host_probe_more import PROMPT, fingerprints


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


def wrong_inputs(model, clip, vae, made):
    """Models of other families (their classes without weights), no CLIP, a video, a mask of another size,
    another base."""

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
            shape=replace(made["shape"], delta={
                n: torch.ones(3, 5) for n in list(core("escdiff_core.attribute.tensors").tensor_names(
                    made["shape"].delta))[:2]}),
        ),
        "other base": said("ESCDiffMix", **mixing, shape=strange),
        "schedule": said("ESCDiffMix", **mixing, shape=made["shape"], shape_start=0.8, shape_end=0.2),
    }
