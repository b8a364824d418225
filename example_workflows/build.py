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
from texts import NOTES, TITLES  # noqa: E402

API = HERE / "api"
# what /object_info says of the nodes in use, without tooltips and file lists
DEFINITIONS = API / "definitions.json"

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
SEEDS = ("seed", "noise_seed")              # the front end puts a control below an INT of these names
# their options are the files of one machine
FILE_INPUTS = {"ckpt_name", "control_net_name", "bg_removal_name", "image", "file"}
UNUSED = ("tooltip", "multiselect", "display_name")
# A new seed draws a new picture, which is wanted; learning with a new seed would learn all over again, which
# is not.
CONTROL = {"KSampler": "randomize"}

SLOT, WIDGET, TITLE = 20, 28, 30            # heights in the front end, with a little room to spare
GAP_X, GAP_Y = 40, 40
WIDTH, WIDE = 260, 360
TALLEST = (800, 900, 1000, 1100)           # of a column: the one is taken that shows the graph largest
# three quarters of a common screen, where the front end shows all of a new graph
PAGE = (1425, 643)
NOTE_WIDTHS = {"above": 800, "left": WIDE}
LETTER, LINE = 7, 18                        # of a note's text, with a little room to spare
EXTRA_HEIGHT = {
    "LoadImage": 300, "SaveImage": 360, "PreviewImage": 260, "ESCDiffExampleReference": 190,
    "ESCDiffLearnAttribute": 240, "ESCDiffLearnShape": 240, "ESCDiffLearnLook": 240,
    "ESCDiffShapeAndLook": 280, "ESCDiffSaveAttribute": 90
}

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
    return {t: _excerpt(known[t]) for t in used}


def _excerpt(definition: dict) -> dict:
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


def inputs_of(definition: dict) -> dict[str, list]:
    """Input names to [type, settings], in the front end's order: required ones first."""
    return {**definition["input"].get("required", {}), **definition["input"].get("optional", {})}


def is_link(value) -> bool:
    """Whether an input's value in an API graph is another node's output."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def links_of(node: dict) -> dict[str, tuple[str, int]]:
    return {name: (value[0], value[1]) for name, value in node["inputs"].items() if is_link(value)}


def sources_first(graph: dict) -> list[str]:
    """The nodes' keys, every node after those it takes something from. Raises ValueError for a circle."""
    order: list[str] = []
    while len(order) < len(graph):
        ready = [
            k for k in graph if k not in order and all(s in order for s, _ in links_of(graph[k]).values())
        ]
        if not ready:
            raise ValueError(f"the graph runs in a circle: {', '.join(k for k in graph if k not in order)}")
        order.extend(ready)
    return order


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


def size_of(node: dict, definition: dict, folded: bool = False) -> list[int]:
    """Width and height, rather too large than too small, so that nothing overlaps in the front end.

    ``folded``: without the inputs marked advanced, which the front end may fold away; one that does not makes
    the node larger.
    """
    inputs = inputs_of(definition)
    widgets = [
        settings
        for kind, settings in inputs.values()
        if kind in WIDGETS and not (folded and settings.get("advanced"))
    ]
    tall = sum(bool(s.get("multiline")) for s in widgets)
    seeds = sum(name in SEEDS for name in inputs)
    rows = max(sum(kind not in WIDGETS for kind, _ in inputs.values()), len(definition["output"]))
    height = rows * SLOT + (len(widgets) + seeds) * WIDGET + tall * 90 + EXTRA_HEIGHT.get(
        node["class_type"], 0) + 20
    return [WIDE if tall else WIDTH, height]


def note_size(note: str, width: int) -> list[int]:
    """Width and height of a note of that width; a list's lines are indented."""
    lines = sum(-(-len(line) * LETTER // (width - 60)) or 1 for line in note.split("\n"))
    return [width, 40 + lines * LINE]


def columns_of(graph: dict) -> dict[str, int]:
    """Which column each node stands in: its depth, and for one without inputs the column before whoever uses
    it first."""
    order, column = sources_first(graph), {}
    for key in order:
        column[key] = max((column[s] + 1 for s, _ in links_of(graph[key]).values()), default=0)
    for key in order:
        users = [column[k] for k in graph if any(s == key for s, _ in links_of(graph[k]).values())]
        if not links_of(graph[key]) and users:
            column[key] = min(users) - 1
    return column


def zoom_of(places: dict[str, list[int]], sizes: dict[str, list[int]]) -> float:
    """How large a new graph is shown, where all of it is to be seen; words go below 0.57."""
    return min(PAGE[i] / max(places[key][i] + sizes[key][i] for key in places) for i in (0, 1))


def lay_out(
    graph: dict, sizes: dict[str, list[int]], left: int, top: int, tallest: int
) -> dict[str, list[int]]:
    """Positions left to right by column; within one, in the order of the API graph. One that is too tall goes
    on beside itself."""
    column, places, x = columns_of(graph), {}, left
    for number in range(max(column.values()) + 1):
        y, width = top, 0
        for key in (k for k in graph if column[k] == number):
            if width and y + TITLE + sizes[key][1] > top + tallest:
                y, x, width = top, x + width + GAP_X, 0
            places[key] = [x, y + TITLE]
            y, width = y + TITLE + sizes[key][1] + GAP_Y, max(width, sizes[key][0])
        x += width + GAP_X
    return places


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
            "id": number[key], "type": node["class_type"], "pos": places[key],
            "size": size_of(node, definition, folded=True), "flags": {}, "order": order.index(key), "mode": 0,
            "inputs": sockets, "outputs": [
                {"name": n, "type": t, "slot_index": i, "links": []}
                for i, (n, t) in enumerate(zip(definition["output_name"], definition["output"], strict=True))
            ], "title": node.get("_meta", {}).get("title", definition["display_name"]), "properties": {
                "Node name for S&R": node["class_type"],
                "cnr_id": "comfy-core" if definition["stock"] else "escdiff", **downloads(node)
            }, "widgets_values": widget_values(
                {**node, "inputs": node["inputs"] | UNCHOSEN.get(node["class_type"], {})}, definition)
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
        "last_node_id": len(made), "last_link_id": len(links), "nodes": made, "links": links, "groups": [],
        "config": {}, "extra": {} if app is None else {
            "linearMode": True, "linearData": {
                "inputs": [[str(number[key]), name] for key, name in app["inputs"]],
                "outputs": [str(number[key]) for key in app["outputs"]]
            }
        }, "version": 0.4
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
