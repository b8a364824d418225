"""The workflows people open, made from the API graphs in ``api/``: UI format and a thumbnail, the same every
time.

    build.py                                   from the saved node definitions
    build.py --server http://127.0.0.1:8188    fetch the definitions again first (after a node has changed)
    build.py --draw                            learn and draw the thumbnails' pictures again first (minutes)
"""

import argparse
import json
import sys
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import blueprint  # noqa: E402
import thumbnails  # noqa: E402
from graph import SEEDS, WIDGETS, inputs_of, is_link, links_of, sources_first  # noqa: E402
from layout import (  # noqa: E402
    GAP_X,
    GAP_Y,
    TALLEST,
    TITLE,
    WIDE,
    lay_out,
    note_size,
    size_of,
    zoom_of,
)
from texts import NOTES, TITLES  # noqa: E402

API = HERE / "api"
# what /object_info says of the nodes in use, without tooltips and file lists
DEFINITIONS = API / "definitions.json"

# their options are the files of one machine
FILE_INPUTS = {"ckpt_name", "control_net_name", "bg_removal_name", "image", "file"}
UNUSED = ("tooltip", "multiselect", "display_name")
# A new seed draws a new picture, which is wanted; learning with a new seed would learn all over again, which
# is not.
CONTROL = {"KSampler": "randomize"}

NOTE_WIDTHS = {"above": 800, "left": WIDE}

HUB = "https://huggingface.co"
MODELS = {  # what the front end offers to download
    "sd_xl_base_1.0.safetensors": ("checkpoints", "stabilityai/stable-diffusion-xl-base-1.0/resolve/main"),
    "v1-5-pruned-emaonly-fp16.safetensors": (
        "checkpoints",
        "Comfy-Org/stable-diffusion-v1-5-archive/resolve/main",
    ),
    "control_v11p_sd15_canny_fp16.safetensors": (
        "controlnet",
        "comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main",
    ),
    "birefnet.safetensors": ("background_removal", "Comfy-Org/BiRefNet/resolve/main/background_removal"),
}
# A graph must open without errors where nothing has been saved yet
UNCHOSEN = {"ESCDiffLoadAttribute": {"file": "choose a file"}}
# App mode: what stands beside the picture, under which name if not its own, and whose picture it is
APPS = {
    "shape_and_look_app": {
        "inputs": {("shape_picture", "example"): "picture for the shape",
                   ("look_picture", "example"): "picture for the look", ("box", "prompt"): "",
                   ("sampler", "seed"): ""}, "outputs": ["save"]
    }
}


def graphs() -> dict[str, dict]:
    """All API graphs by name."""
    return {p.stem: json.loads(p.read_text("utf-8")) for p in sorted(API.glob("*.json")) if p != DEFINITIONS}


def fetch_definitions(server: str) -> dict:
    """The definitions of the nodes in use from a running server, without what changes with the machine or the
    wording."""
    with urllib.request.urlopen(f"{server.rstrip('/')}/object_info", timeout=120) as answer:
        known = json.load(answer)
    used = sorted({node["class_type"] for graph in graphs().values() for node in graph.values()})
    missing = [t for t in used if t not in known]
    if missing:
        raise SystemExit(f"the server does not know {', '.join(missing)}; is ESCDiff in its custom_nodes?")
    return {t: excerpt(known[t]) for t in used}


def excerpt(definition: dict) -> dict:
    """What the workflows need of a node's definition: none of its tooltips, file lists or older spellings."""
    inputs = {group: {name: _without_machine(name, spec) for name, spec in definition["input"][group].items()}
              for group in ("required", "optional") if definition["input"].get(group)}
    return {
        "display_name": definition["display_name"] or definition["name"],
        "stock": not definition["name"].startswith("ESCDiff"),
        "input": inputs,
        "output": definition["output"],
        "output_name": definition["output_name"],
    }


def _without_machine(name: str, spec: list) -> list:
    kind, settings = spec[0], dict(spec[1]) if len(spec) > 1 else {}
    if isinstance(kind, list):      # the older way to write a COMBO
        kind, settings = "COMBO", {**settings, "options": kind}
    if kind == "COMBO" and name in FILE_INPUTS:
        settings["options"] = []
    return [kind, {k: v for k, v in settings.items() if k not in UNUSED}]


def widget_values(node: dict, definition: dict) -> list:
    """The widgets' values as the front end stores them: schema order, a control after a seed, "image" for an
    upload button."""
    values = []
    for name, (kind, settings) in inputs_of(definition).items():
        if kind not in WIDGETS:
            continue
        given = node["inputs"].get(name)
        values.append(_default(kind, settings) if given is None or is_link(given) else given)
        if kind == "INT" and settings.get("control_after_generate", name in SEEDS):
            values.append(CONTROL.get(node["class_type"], "fixed"))
    uploads = any(
        settings.get("image_upload") for _, settings in definition["input"].get("required", {}).values()
    )
    return [*values, "image"] if uploads else values


def _default(kind: str, settings: dict):
    first = next(iter(settings.get("options", [])), None)
    return settings.get(
        "default", {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False, "COMBO": first}[kind]
    )


def downloads(node: dict) -> dict:
    """The models that a node loads, with where they can be had."""
    return (
        {}
        if not (names := [v for v in node["inputs"].values() if isinstance(v, str) and v in MODELS])
        else {
            "models": [
                {"name": n, "url": f"{HUB}/{MODELS[n][1]}/{n}?download=true", "directory": MODELS[n][0]}
                for n in names
            ]
        }
    )


def to_ui(graph: dict, definitions: dict, note: str = "", app: dict | None = None) -> dict:
    """The API ``graph`` in the front end's format, version 0.4; ``app`` is a row of APPS."""
    order = sources_first(graph)
    number = {key: i + 1 for i, key in enumerate(order)}
    sizes = {key: size_of(node, definitions[node["class_type"]]) for key, node in graph.items()}
    notes = {where: note_size(note, width) for where, width in NOTE_WIDTHS.items()}
    corners = (
        {"above": (0, notes["above"][1] + TITLE + GAP_Y), "left": (notes["left"][0] + GAP_X, 0)}
        if note
        else {"": (0, 0)}
    )
    ways = [
        (where, lay_out(graph, sizes, *corner, tallest))
        for where, corner in corners.items()
        for tallest in TALLEST
    ]
    where, places = max(ways, key=lambda way: zoom_of(way[1], sizes))
    nodes, links = {}, []
    for key in order:
        node, definition = graph[key], definitions[graph[key]["class_type"]]
        labels = {
            name: label
            for (owner, name), label in (app or {"inputs": {}})["inputs"].items()
            if owner == key and label
        }
        sockets = [{
            "name": n, "type": kind, "link": None,
            **({"shape": 7} if n in definition["input"].get("optional", {}) else {}),
            **({"label": labels[n]} if n in labels else {})
        }
                   for n, (kind, _) in inputs_of(definition).items()
                   if kind not in WIDGETS or n in (*links_of(node), *labels)]
        for slot, socket in enumerate(sockets):
            if inputs_of(definition)[socket["name"]][0] in WIDGETS:
                socket["widget"] = {"name": socket["name"]}
            if socket["name"] not in links_of(node):
                continue
            source, output = links_of(node)[socket["name"]]
            socket["link"] = len(links) + 1
            links.append([socket["link"], number[source], output, number[key], slot,
                          definitions[graph[source]["class_type"]]["output"][output]])
        nodes[key] = {
            "id": number[key],
            "type": node["class_type"],
            "pos": places[key],
            "size": size_of(node, definition, folded=True),
            "flags": {},
            "order": order.index(key),
            "mode": 0,
            "inputs": sockets,
            "outputs": [
                {"name": n, "type": t, "slot_index": i, "links": []}
                for i, (n, t) in enumerate(zip(definition["output_name"], definition["output"], strict=True))
            ],
            "title": node.get("_meta", {}).get("title", definition["display_name"]),
            "properties": {
                "Node name for S&R": node["class_type"],
                "cnr_id": "comfy-core" if definition["stock"] else "escdiff",
                **downloads(node),
            },
            "widgets_values": widget_values(
                {**node, "inputs": node["inputs"] | UNCHOSEN.get(node["class_type"], {})}, definition
            ),
        }
    by_number = {n["id"]: n for n in nodes.values()}
    for link in links:
        by_number[link[1]]["outputs"][link[2]]["links"].append(link[0])
    made = list(nodes.values())
    if note:
        made.append({
            "id": len(made) + 1, "type": "MarkdownNote", "pos": [0, TITLE], "size": notes[where], "flags": {},
            "order": len(made), "mode": 0, "inputs": [], "outputs": [], "title": "How to use this",
            "properties": {}, "widgets_values": [note], "color": "#432", "bgcolor": "#000"
        })
    return {
        "last_node_id": len(made),
        "last_link_id": len(links),
        "nodes": made,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {}
        if app is None
        else {
            "linearMode": True,
            "linearData": {
                "inputs": [[str(number[key]), name] for key, name in app["inputs"]],
                "outputs": [str(number[key]) for key in app["outputs"]],
            },
        },
        "version": 0.4,
    }


def to_text(ui: dict) -> str:
    """One line per node and link: files that can be read and compared."""
    def row(thing) -> str:
        return json.dumps(thing, ensure_ascii=False)

    parts = [
        f' {row(k)}: [\n  ' + ",\n  ".join(row(t) for t in v) + "\n ]"
        if k in ("nodes", "links")
        else f" {row(k)}: {row(v)}"
        for k, v in ui.items()
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def build(definitions: dict) -> dict[str, dict]:
    """All UI graphs by name."""
    return {name: to_ui(graph, definitions, NOTES[name], APPS.get(name)) for name, graph in graphs().items()}


def build_blueprint(definitions: dict) -> dict:
    """The quick start's box as a subgraph."""
    graph = graphs()["pocket_quickstart"]
    return blueprint.blueprint(to_ui(graph, definitions), dict(enumerate(sources_first(graph), 1)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--server", help="a running ComfyUI with this pack, to fetch the node definitions from"
    )
    parser.add_argument("--draw", action="store_true", help="learn and draw the thumbnails' pictures again")
    options = parser.parse_args()
    if options.server:
        rows = [f" {json.dumps(k)}: {json.dumps(v)}" for k, v in fetch_definitions(options.server).items()]
        DEFINITIONS.write_text("{\n" + ",\n".join(rows) + "\n}\n", "utf-8")
    if options.draw:
        thumbnails.draw_pictures()
    definitions = json.loads(DEFINITIONS.read_text("utf-8"))
    blueprint.FOLDER.mkdir(exist_ok=True)
    (blueprint.FOLDER / f"{blueprint.NAME}.json").write_text(
        json.dumps(build_blueprint(definitions), indent=1) + "\n", "utf-8"
    )
    for name, ui in build(definitions).items():
        (HERE / f"{TITLES[name]}.json").write_text(to_text(ui), "utf-8")
        thumbnails.thumbnail(name).save(HERE / f"{TITLES[name]}.jpg", quality=90)
        print(f"{name}: {len(ui['nodes'])} nodes, {len(ui['links'])} links")


if __name__ == "__main__":
    main()
