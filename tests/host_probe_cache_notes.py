"""Part of host_probe_cache: what a node says below itself."""

import logging
import sys

from host_probe_base import core, empty, found, host_nodes, node, stock, torch

LEARN = {
    "recipe": "escdiff-appearance", "steps": 6, "seed": 3, "describe": "", "batch_size": 2, "preview_every": 0
}


def notes(model, clip, vae, made, page):
    """What each node shows, and that it goes when it no longer holds; the job's outputs have it too."""
    mixing = {"model": model, "clip": clip, "negative": "", "appearance": made}

    def run(node_id, **inputs):
        page.shown.clear()
        out = host_nodes.NODE_CLASS_MAPPINGS[node_id].EXECUTE_NORMALIZED(**inputs)
        ui = out.ui.as_dict() if hasattr(out.ui, "as_dict") else out.ui
        return [page.shown.get("7"), list((ui or {}).get("text", ())), sorted(ui or {})]

    shown = found["notes"] = {}
    photo = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(1))
    shown["no token"] = run("ESCDiffMix", **mixing, prompt="a red star")
    shown["token"] = run("ESCDiffMix", **mixing, prompt="a star with *a appearance")
    shown["token again"] = run("ESCDiffMix", **mixing, prompt="a star with *a appearance")
    shown["whole picture"] = run("ESCDiffReferenceFeatures", model=model, clip=clip, vae=vae, image=photo)
    mixed = node("ESCDiffMix", **mixing, prompt="a star with *a appearance")
    for name, side in (("size", 64), ("right size", 16)):
        page.shown.clear()
        stock("KSampler", "sample", model=mixed[0], seed=1, steps=1, cfg=1.0, sampler_name="euler",
              scheduler="normal", positive=mixed[1], negative=mixed[2],
              latent_image=empty(side=side), denoise=1.0)
        shown[name] = page.shown.get("7")
    boxed = {
        **mixing, "seed": 1, "steps": 1, "cfg": 1.0, "sampler": "euler", "scheduler": "normal", "denoise": 1.0
    }
    shown["two notes"] = run(
        "ESCDiffMixedSampler", **boxed, prompt="a star", latent=empty(side=64)
    )
    shown["one note"] = run("ESCDiffMixedSampler", **boxed, prompt="a star", latent=empty(side=16))
    apart = node("ESCDiffApply", model=model, shape=None, appearance=made)[1]
    for name, prompt in (("prompt", "a red star"), ("prompt with it", "a *a star"), ("empty prompt", " ")):
        shown[name] = run("ESCDiffPrompt", mixed=apart, clip=clip, prompt=prompt)
    page.client_id = None
    shown["nobody there"] = run("ESCDiffMix", **mixing, prompt="a red star")
    page.client_id = "browser"
    server = sys.modules.pop("server")
    shown["no server"] = run("ESCDiffMix", **mixing, prompt="a red star")
    sys.modules["server"] = server
    try:
        node("ESCDiffLearnAttribute", model=model, clip=clip, vae=vae, image=photo,
             **{**LEARN, "recipe": "escdiff-shape"}, kind="appearance")
    except Exception as error:      # whatever comes out is what the artist reads
        found["error"] = [
            type(error).__module__,
            type(error).__name__,
            str(error),
            error.__traceback__.tb_next is not None,
            isinstance(error, core("escdiff_core.errors").ESCDiffError),
            page.shown["7"].splitlines()[-1],
        ]
    found["listeners_left"] = len(logging.getLogger(core("nodes.host.notes").PACK).handlers)
