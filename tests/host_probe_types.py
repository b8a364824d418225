"""Runs inside one real ComfyUI's environment: which wires it accepts, and what it shows of our nodes; prints
JSON.

``python host_probe_types.py HOST BASE PACK``; called by test_host_types.py. Nothing is executed: the graphs
go through what ``/prompt`` asks before it queues one.
"""

import asyncio
import json

from host_probe_base import BASE, HOST, PACK, core, found, host_nodes, torch
from safetensors.torch import save_file

SAVED = PACK / "tests" / "saved" / "graphs_0.4.json"
MODEL = {"model": ["model", 0], "clip": ["model", 1]}
PICTURE = {**MODEL, "vae": ["model", 2], "image": ["picture", 0]}
LEARN = {**PICTURE, "class_word": "", "recipe": "recipe's own", "steps": 0, "seed": 0, "describe": ""}
PROMPTS = {"prompt": "a *m", "negative": ""}
SAMPLE = {
    "latent": ["latent", 0], "seed": 0, "steps": 1, "cfg": 1.0, "sampler": "euler", "scheduler": "normal",
    "denoise": 1.0
}
# Where an attribute comes from ...
SOURCES = {
    "shape": ("ESCDiffLearnShape", 0, LEARN), "look": ("ESCDiffLearnLook", 0, LEARN),
    "either": ("ESCDiffLearnAttribute", 0, {**LEARN, "kind": "shape"}),
    "file": ("ESCDiffLoadAttribute", 0, {"file": "a.safetensors"}),
    "saved": ("ESCDiffSaveAttribute", 0, {"attribute": ["shape", 0], "name": "a"}), **{
        f"box's {kind}": ("ESCDiffShapeAndLook", number, {
            **PICTURE, **PROMPTS, "shape_picture": ["picture", 0], "look_picture": ["picture", 0],
            "class_word": "", "seed": 0
        })
        for kind, number in (("shape", 5), ("look", 6))
    },
}
# ... and where it goes
SINKS = {
    **{
        f"{name}.{kind}": (f"ESCDiff{name}", kind, inputs)
        for kind in ("shape", "appearance")
        for name, inputs in (
            ("Mix", {**MODEL, **PROMPTS}),
            ("Apply", {"model": ["model", 0]}),
            ("MixedSampler", {**MODEL, **PROMPTS, **SAMPLE}),
        )
    },
    "Save": ("ESCDiffSaveAttribute", "attribute", {"name": "a"}),
    "Info": ("ESCDiffAttributeInfo", "attribute", {}),
    "Export": ("ESCDiffExport", "attribute", {"form": "lora", "name": "a"}),
}


def what_is_wrong(graph: dict) -> list[str]:
    """What the host says to ``graph`` before it would queue it."""
    import execution

    answer = asyncio.run(execution.validate_prompt("1", graph, None))
    errors = [e for node in answer[3].values() for e in node["errors"]]
    return [f"{e['type']}: {e['details']}" for e in errors] or ([] if answer[0] else [str(answer[1])])


def wired(source: tuple, sink: tuple) -> dict:
    """A graph with one wire from ``source`` to ``sink``."""
    (made_by, number, given), (used_by, name, inputs) = source, sink
    return {
        "model": {"class_type": "ESCDiffLoadPocketModel", "inputs": {}},
        "picture": {
            "class_type": "ESCDiffExampleReference",
            "inputs": {"example": core("nodes.reference").example_names()[0]},
        },
        "latent": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 128, "height": 128, "batch_size": 1},
        },
        "shape": {"class_type": "ESCDiffLearnShape", "inputs": LEARN},
        "from": {"class_type": made_by, "inputs": given},
        "to": {"class_type": used_by, "inputs": {**inputs, name: ["from", number]}},
        "end": {"class_type": "PreviewAny", "inputs": {"source": ["to", 0]}},
    }


def with_files_of_this_machine(graph: dict) -> dict:
    for node in graph.values():
        if "file" in node["inputs"]:
            node["inputs"]["file"] = "a.safetensors"
    return graph


def main() -> None:
    asyncio.run(host_nodes.load_custom_node(str(PACK)))
    for extra in ("nodes_preview_any", "nodes_canny"):
        asyncio.run(
            host_nodes.load_custom_node(
                str(HOST / "comfy_extras" / f"{extra}.py"), module_parent="comfy_extras"
            )
        )
    (BASE / "models" / "escdiff").mkdir(exist_ok=True)
    save_file({"delta": torch.zeros(1)}, BASE / "models" / "escdiff" / "a.safetensors")
    found["wires"] = {one: {other: what_is_wrong(wired(source, sink)) for other, sink in SINKS.items()}
                      for one, source in SOURCES.items()}
    seen = {"features": {"class_type": "ESCDiffReferenceFeatures", "inputs": PICTURE | {"seed": 0}}}
    tune = {**MODEL, "vae": ["model", 2], "recipe": "escdiff-shape", "steps": 0, "seed": 0, "describe": ""}
    found["tokens"] = {
        kind: what_is_wrong(
            seen
            | wired(
                (f"ESCDiff{kind}Filter", 0, {"features": ["features", 0], "class_word": ""}),
                ("ESCDiffTune", "token", tune),
            )
        )
        for kind in ("Shape", "Appearance")
    }
    found["saved graphs"] = {name: what_is_wrong(with_files_of_this_machine(graph)) for name, graph in
                             json.loads(SAVED.read_text()).items()}
    found["nodes"] = {name: cls.GET_NODE_INFO_V1() for name, cls in host_nodes.NODE_CLASS_MAPPINGS.items()
                      if name.startswith("ESCDiff")}
    print("FOUND " + json.dumps(found))


if __name__ == "__main__":
    main()
