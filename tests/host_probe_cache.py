"""Runs inside one real ComfyUI: what a node says, what is found in the cache, and how a stopped run goes on;
prints JSON.

``python host_probe_cache.py HOST BASE PACK``; called by test_host_cache.py.
"""

import json
import shutil
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

from host_probe import load_pack
from host_probe_base import core, few_views, found, node, stock, torch
from host_probe_cache_notes import LEARN, notes


class Page:
    """Stands for the host's server with one browser at it; ``shown`` is what each node has below it."""

    def __init__(self):
        self.client_id, self.last_node_id, self.shown = "browser", "7", {}

    def send_progress_text(self, text, node_id, sid=None):
        assert sid == "browser", "not to strangers, whose node of that number is another"
        self.shown[node_id] = text


class Counter:
    """Counts what learning costs: steps, private copies, features read."""

    def __init__(self):
        tuner, learning = core("escdiff_core.learning.tune").Tuner, core("nodes.host.learning")
        self.counts = {"steps": 0, "copies": 0, "features": 0}
        for name, owner, function in (("steps", tuner, "step"), ("copies", learning, "private_model"),
                                      ("features", learning, "read_features")):
            setattr(owner, function, self.counting(name, getattr(owner, function)))

    def counting(self, name, usual):
        def counted(*given, **more):
            self.counts[name] += 1
            return usual(*given, **more)

        return counted

    def since_last(self) -> dict:
        now = dict(self.counts)
        self.counts.update(dict.fromkeys(self.counts, 0))
        return now


def same(one, other) -> bool:
    return (
        one.delta.keys() == other.delta.keys()
        and all(torch.equal(t, other.delta[n]) for n, t in one.delta.items())
        and torch.equal(one.embeddings["clip_l"], other.embeddings["clip_l"])
    )


def cached(model, clip, vae, encoder, image, mask, count, page):
    given = {"model": model, "clip": clip, "vae": vae, "encoder": encoder, "image": image, "mask": mask,
             "kind": "appearance", **LEARN}
    first = node("ESCDiffLearnAttribute", **given)[0]
    found["first"] = [count.since_last(), page.shown.get("7", " ")]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads % 2 + 1)
    looked = {n: given[n] for n in ("model", "clip", "vae", "encoder", "image", "mask", "seed")}
    parts = node("ESCDiffReferenceFeatures", **looked)[0]
    token = node("ESCDiffAppearanceFilter", features=parts)[0]
    again = node("ESCDiffTune", model=model, clip=clip, vae=vae, token=token, **LEARN)[0]
    found["again"] = [count.since_last(), page.shown["7"], same(first, again)]
    # more than its share of the cores makes everything else many times slower
    torch.set_num_threads(threads)
    return given, first


def keys(model, clip, vae, encoder, image, mask):
    """The key of the same inputs under another thread count, and of each input changed."""
    learning, recipes = core("nodes.host.learning"), core("escdiff_core.learning.recipes")
    name = "diffusion_model.input_blocks.1.1.proj_in.weight"

    def patched(patcher, where, strength):
        clone = patcher.clone()
        shape = dict((clone.patcher if hasattr(clone, "patcher") else clone).model.named_parameters())[
            where
        ].shape
        assert clone.add_patches({where: ("diff", (torch.ones(shape),))}, strength)
        return clone

    def key(model=model, clip=clip, vae=vae, image=image, mask=mask, encoder=encoder, timestep=250, looked=0,
            kind="appearance", class_word="", filter_file="", seed=3, describe="", token_name="", **recipe):
        source = learning.Source(model, clip, vae)
        features = learning.read_reference(source, image, mask, encoder, timestep, looked)
        row = recipes.find_recipe(recipes.DEFAULTS[kind], kind, **recipe)
        start = learning.TokenStart(kind, features, class_word, filter_file)
        return learning.key_of(source, start, row, seed, describe, token_name)

    usual = key()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads % 2 + 1)
    reloaded = node("ESCDiffLoadPocketModel")
    found["same_key"] = {"again": key() == usual,
                         "loaded anew": key(*reloaded[:3], encoder=reloaded[3]) == usual,
                         "token spelled out": key(token_name="*a") == usual}
    torch.set_num_threads(threads)
    brighter, bolder = image.clone(), mask.clone()
    brighter[0, 5, 5] += 1 / 255
    bolder[0, 64, 64] = 0.25
    schedule = model.clone()
    sampling = stock_sampling(model)
    schedule.add_object_patch("model_sampling", sampling)
    other_clip, other_vae = (node("ESCDiffLoadPocketModel")[i] for i in (1, 2))
    with torch.inference_mode(False):
        other_model = node("ESCDiffLoadPocketModel")[0]
        for module in (
            other_model.model.diffusion_model,
            other_clip.cond_stage_model.clip_l.transformer.get_input_embeddings(),
            other_vae.first_stage_model,
        ):
            next(module.parameters()).data.add_(0.01)
    skipped = stock("CLIPSetLastLayer", "set_last_layer", clip=clip, stop_at_clip_layer=-2)[0]
    tower = replace(encoder, mean=(0.4, 0.5, 0.5))
    filters = core("escdiff_core.worlds.pocket.config").FILTERS
    copied = shutil.copy(filters, found["base"] + "/filters.safetensors")
    with open(copied, "ab") as file:
        file.write(b" ")
    text = next(n for n, _ in clip.patcher.model.named_parameters() if n.endswith("mlp.fc1.weight"))
    changed = {
        "model": key(model=other_model), "LoRA": key(model=patched(model, name, 0.5)),
        "LoRA strength": key(model=patched(model, name, 0.6)), "schedule": key(model=schedule),
        "clip": key(clip=other_clip), "LoRA on clip": key(clip=patched(clip, text, 0.5)),
        "clip skip": key(clip=skipped), "vae": key(vae=other_vae), "picture": key(image=brighter),
        "two pictures": key(image=image.repeat(2, 1, 1, 1)), "mask": key(mask=bolder),
        "no mask": key(mask=None), "encoder": key(encoder=tower), "no encoder": key(encoder=None),
        "timestep": key(timestep=300), "seed of looking": key(looked=1), "kind": key(kind="shape"),
        "class word": key(class_word="cat"), "filter": key(filter_file=str(copied)), "seed": key(seed=4),
        "describe": key(describe="on a table"), "token name": key(token_name="*b"), "steps": key(steps=7),
        "preset": key(preset="b-lora"), "batch size": key(batch_size=1)
    }
    everything = [usual, *changed.values()]
    found["key_of"] = {n: everything.count(k) == 1 for n, k in changed.items()}
    began = time.perf_counter()
    digests = core("nodes.host.digests")
    hashed, usual_digest = [], digests.weights_digest
    digests.weights_digest = lambda tensors: hashed.append(1) or usual_digest(tensors)
    fresh = node("ESCDiffLoadPocketModel")
    lora = patched(fresh[0], name, 0.5)
    for _ in range(3):
        key(lora, *fresh[1:3])
    digests.weights_digest = usual_digest
    found["hashed"], found["key_seconds"] = len(hashed), time.perf_counter() - began


def stock_sampling(model):
    import comfy.model_sampling

    class Sampling(
        comfy.model_sampling.ModelSamplingDiscrete,
        comfy.model_sampling.V_PREDICTION
        if not isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.V_PREDICTION)
        else comfy.model_sampling.EPS,
    ):
        pass

    return Sampling(model.model.model_config)


def stopped(given, whole, count, page):
    """Cancelled at step 4 of 6 under another seed, then queued again; beside a run that nobody stopped."""
    import comfy.model_management as host
    import comfy.utils

    cache = core("nodes.host.learning").cache()
    given = {**given, "seed": 11}
    usual = comfy.utils.ProgressBar.update_absolute

    def pressed(self, value, *rest, **more):
        if value == 4:
            host.interrupt_current_processing()
        return usual(self, value, *rest, **more)

    def cancelled(**changes):
        comfy.utils.ProgressBar.update_absolute = pressed
        try:
            node("ESCDiffLearnAttribute", **{**given, **changes})
        except host.InterruptProcessingException:
            return sorted(p.suffix
                          for p in cache.directory.iterdir()
                          if p.suffix == ".unfinished"), page.shown["7"]
        finally:
            comfy.utils.ProgressBar.update_absolute = usual
            host.interrupt_current_processing(False)

    count.since_last()
    found["cancelled"] = [*cancelled(), count.since_last()["steps"]]
    resumed = node("ESCDiffLearnAttribute", **given)[0]
    found["resumed"] = [
        count.since_last()["steps"],
        page.shown["7"],
        len(list(cache.directory.glob("*.unfinished"))),
    ]
    for file in cache.directory.glob("*.safetensors"):
        file.unlink()
    unbroken = node("ESCDiffLearnAttribute", **given)[0]
    found["resumed_is_the_unbroken"] = [
        same(resumed, unbroken),
        not same(resumed, whole),
        count.since_last()["steps"],
    ]
    for file in cache.directory.glob("*.safetensors"):
        file.unlink()
    cancelled()
    next(cache.directory.glob("*.unfinished/resume.safetensors")).write_bytes(b"half")
    count.since_last()
    found["damaged_state"] = [
        same(unbroken, node("ESCDiffLearnAttribute", **given)[0]),
        count.since_last()["steps"],
        len(list(cache.directory.glob("*.unfinished"))),
    ]


def troubles(given, count, page):
    """A damaged file, one of a format to come, and a folder that cannot be written."""
    cache = core("nodes.host.learning").cache()
    count.since_last()
    node("ESCDiffLearnAttribute", **given)
    count.since_last()
    for name, content in (("damaged", b"half"), ("empty", b"")):
        for file in cache.directory.glob("*.safetensors"):
            file.write_bytes(content)
        node("ESCDiffLearnAttribute", **given)
        found[f"cache_{name}"] = count.since_last()["steps"]
        node("ESCDiffLearnAttribute", **given)
        found[f"cache_{name}_mended"] = count.since_last()["steps"]
    shutil.rmtree(cache.directory)
    cache.directory.write_text("a file in the place of the folder")
    node("ESCDiffLearnAttribute", **given)
    found["unwritable"] = [count.since_last()["steps"], page.shown["7"]]
    cache.directory.unlink()


def main() -> None:
    load_pack()
    from host_probe_base import BASE

    found["base"] = str(BASE)
    with torch.inference_mode():
        few_views()
        user_s = node("ESCDiffLoadPocketModel")
        names, page, count = core("nodes.reference").example_names(), Page(), Counter()
        sys.modules["server"] = SimpleNamespace(PromptServer=SimpleNamespace(instance=page))
        image, mask = node("ESCDiffExampleReference", example=names[-1])
        given, made = cached(*user_s, image, mask, count, page)
        keys(*user_s, image, mask)
        stopped(given, made, count, page)
        troubles(given, count, page)
        notes(*user_s[:3], made, page)
    print("FOUND " + json.dumps(found))


if __name__ == "__main__":
    main()
