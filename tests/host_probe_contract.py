"""Runs inside one real ComfyUI's environment: what the pack asks of it, and hosts that were changed; prints
JSON.

``python host_probe_contract.py HOST BASE PACK``; called by test_host_contract.py.
"""

import asyncio
import json
import logging
import time
from contextlib import contextmanager
from dataclasses import replace

from host_probe_base import PACK, core, draw, found, host_nodes, largest, node, torch

PROMPT = "a photo of a *m with *a appearance"


class Said(logging.Handler):
    """The lines of the log."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        logging.getLogger().addHandler(self)

    def emit(self, record):
        self.lines.append(record.getMessage())


@contextmanager
def changed(target, name: str, value=None):
    """The host with another ``name`` in ``target``, or without it, and nothing remembered of how it was."""
    before, remembered = getattr(target, name), core("nodes.host.contract").missing
    setattr(target, name, value) if value else delattr(target, name)
    remembered.cache_clear()
    try:
        yield
    finally:
        setattr(target, name, before)
        remembered.cache_clear()


def attribute(model, kind: str, **changes):
    """An attribute of the pocket model with small random changes."""
    generator, export = torch.Generator().manual_seed(len(kind)), core("nodes.host.export")
    block = {"shape": "input_blocks", "appearance": "output_blocks"}[kind]
    weights = {n: t for n, t in export.unpatched(model).items()
               if n.startswith(block) and n.endswith("attn2.to_k.weight")}
    delta = {n: 0.05 * torch.randn(t.shape, generator=generator) for n, t in weights.items()}
    width = next(iter(weights.values())).shape[1]
    made = core("escdiff_core.attribute").Attribute(
        kind=kind, token={"shape": "*m", "appearance": "*a"}[kind], word="photo",
        embeddings={"clip_l": torch.randn(1, width, generator=generator)}, delta=delta, blocks=(),
        recipe="none", recipe_hash="0" * 16, preset="paper", base_fingerprint=export.base_fingerprint(model),
        steps=1, seed=0)
    return replace(made, **changes)


def changed_hosts(said: Said) -> None:
    """What a node says on a host that was changed under it, and how long it takes to say so."""
    import comfy.lora
    import comfy.sd

    error = core("escdiff_core.errors").ESCDiffError
    tokenize = comfy.sd.CLIP.tokenize

    def without_numbers(self, text, return_word_ids=False, **options):
        return tokenize(self, text, **options)

    def without_vectors(self, tokens, **options):
        plain = {t: [[(5, w) if torch.is_tensor(i) else (i, w) for i, w, *_ in c] for c in chunks]
                 for t, chunks in tokens.items()}
        return encode(self, plain, **options)

    encode = comfy.sd.CLIP.encode_from_tokens_scheduled
    cases = {"a name is gone": (comfy.lora, "calculate_weight", None),
             "a parameter is gone": (comfy.lora, "load_lora", lambda lora: {}),
             "another answer": (comfy.sd.CLIP, "tokenize", without_numbers),
             "another meaning": (comfy.sd.CLIP, "encode_from_tokens_scheduled", without_vectors)}
    image, mask = node("ESCDiffExampleReference", example=core("nodes.reference").example_names()[0])
    for name, (target, what, value) in cases.items():
        model, clip, vae, _ = node("ESCDiffLoadPocketModel")
        said.lines.clear()
        with changed(target, what, value):
            core("nodes.host.contract").warn_of_missing()
            warned, began = list(said.lines), time.monotonic()
            try:
                node("ESCDiffLearnAttribute", model=model, clip=clip, vae=vae, image=image, mask=mask,
                     kind="shape", recipe="escdiff-shape", steps=500, seed=0, describe="")
                answer = ""
            except error as one:
                answer = str(one)
        found[name] = {"warned": warned, "said": answer, "seconds": time.monotonic() - began}


def hooked(rows) -> bool:
    return any("hooks" in more for _, more in rows)


def dynamic_memory() -> None:
    """Dynamic VRAM as far as a machine without a graphics card has it: the model is taken for one of its
    kind."""
    import comfy.model_patcher

    model, clip, vae, _ = node("ESCDiffLoadPocketModel")
    shape, look = attribute(model, "shape"), attribute(model, "appearance")
    stages = replace(shape, layout="stages", embeddings={"clip_l": shape.embeddings["clip_l"].repeat(10, 1)})
    given = {"model": model, "clip": clip, "prompt": PROMPT, "negative": ""}
    mixes = {"always": node("ESCDiffMix", **given, shape=shape, appearance=look),
             "a vector for each stage": node("ESCDiffMix", **given, shape=stages, appearance=look),
             "a token alone ends": node("ESCDiffMix", **given, shape=replace(shape, delta={}),
                                        appearance=look, shape_end=0.5),
             "weights end": node("ESCDiffMix", **given, shape=shape, appearance=look, shape_end=0.5)}
    found["needs hooks"] = [name for name, made in mixes.items() if hooked(made[1]) or hooked(made[2])]
    kind = getattr(comfy.model_patcher, "ModelPatcherDynamic", None)
    if kind is None:
        return
    loaded = []
    again = core("nodes.host.pocket").load_again
    found["the loader is registered"] = model.cached_patcher_init == (again, (0,))
    factories = [patcher.cached_patcher_init for patcher in (clip.patcher, vae.patcher)]
    found["CLIP and VAE too"] = [make(*which, disable_dynamic=True).is_dynamic() for make, which in factories]

    def counted(*parts, **options):
        loaded.append(parts)
        return again(*parts, **options)

    class Dynamic(comfy.model_patcher.ModelPatcher):
        non_dynamic_delegate_model = None
        get_non_dynamic_delegate = kind.get_non_dynamic_delegate

        def is_dynamic(self):
            return True

    found["dynamic"] = {}
    for name, (mixed, positive, negative, _) in mixes.items():
        plain = draw(mixed, positive, negative)
        taken = mixed.clone()
        taken.__class__, taken.cached_patcher_init = Dynamic, (counted, (0,))
        loaded.clear()
        found["dynamic"][name] = [largest(plain, draw(taken, positive, negative)), len(loaded)]


def main() -> None:
    import comfy_api.latest  # noqa: F401 - ComfyUI itself has it by then

    said = Said()
    asyncio.run(host_nodes.load_custom_node(str(PACK)))
    contract = core("nodes.host.contract")
    found["missing"], found["names"] = contract.missing(), sorted(contract.names())
    found["later"] = [fault for name in contract.LATER if (fault := contract.fault_of(name))]
    found["warned at load"] = [line for line in said.lines if line.startswith("ESCDiff")]
    with torch.inference_mode():
        for kind, given in zip(("model", "clip", "vae"), node("ESCDiffLoadPocketModel"), strict=False):
            contract.hold(kind, given)
        changed_hosts(said)
        dynamic_memory()
    print("FOUND " + json.dumps(found))


if __name__ == "__main__":
    main()
