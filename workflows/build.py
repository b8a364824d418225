"""The workflows people open, made from the API graphs in ``api/``: UI format and a thumbnail, the same every time.

    python workflows/build.py                                   from the saved node definitions
    python workflows/build.py --server http://127.0.0.1:8188    fetch the definitions again first (after a node has changed)
"""

import argparse
import json
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
API = HERE / "api"
DEFINITIONS = API / "definitions.json"      # what /object_info says of the nodes in use, without tooltips and file lists

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
SEEDS = ("seed", "noise_seed")              # the front end puts a control below an INT of these names
FILE_INPUTS = {"ckpt_name", "control_net_name", "image", "file"}    # their options are the files of one machine
UNUSED = ("tooltip", "multiselect", "display_name")
# A new seed draws a new picture, which is wanted; learning with a new seed would learn all over again, which is not.
CONTROL = {"KSampler": "randomize"}

SLOT, WIDGET, TITLE = 20, 28, 30            # heights in the front end, with a little room to spare
GAP_X, GAP_Y = 80, 60
WIDTH, WIDE = 320, 420
EXTRA_HEIGHT = {"LoadImage": 300, "SaveImage": 360, "PreviewImage": 260, "ESCDiffLearnAttribute": 240, "ESCDiffSaveAttribute": 90}
COLOURS = {"MODEL": "#b39ddb", "CLIP": "#ffd500", "VAE": "#ff6e6e", "IMAGE": "#64b5f6", "MASK": "#81c784", "LATENT": "#ff9cf9",
           "CONDITIONING": "#ffa931", "CONTROL_NET": "#6ee7b7", "ESCDIFF_ATTRIBUTE": "#4dd0c8", "ESCDIFF_ENCODER": "#c5a37a"}
THUMBNAIL = (480, 320)

LEARN_NOTE = ("1. Choose a Stable Diffusion 1.5 checkpoint.\n2. Upload one picture; a subject on a plain background works best, "
              "or connect a mask (white = subject).\n3. {}\n4. Queue. The file goes to models/escdiff.\n\nNext: the workflow "
              "*sd15_mix*.")
MIX_NOTE = ("1. Learn a shape and an appearance first (*sd15_learn_shape*, *sd15_learn_appearance*).\n2. Press **R**, then choose "
            "both files, and the checkpoint they were learned on.\n3. In the prompt, `*m` is the shape and `*a` the appearance.")
NOTES = {
    "pocket_quickstart": "Press **Run**: nothing to download, a CPU will do.\n\nThe tiny model that comes with the pack learns the "
                         "shape of one picture and the appearance of another, and draws both in one. Once learned, both are found "
                         "in the cache, and only the drawing is done again.",
    "sd15_learn_shape": LEARN_NOTE.format("Say in **class_word** what the subject is, in one word: vase, cat."),
    "sd15_learn_appearance": LEARN_NOTE.format("Leave **class_word** empty: the usual recipe for an appearance does not use it."),
    "sd15_mix": MIX_NOTE,
    "sd15_mix_controlnet": MIX_NOTE + "\n4. Choose a ControlNet for SD 1.5; this one follows the edges of the picture.",
    "batch": "Learns both attributes and mixes them in one go.\n\nThe same graph in `workflows/api/batch.json` is for scripts: "
             "they replace the two pictures, the words and the seeds by node name, such as `shape_picture.image` or `mix.prompt`.",
}


def graphs() -> dict[str, dict]:
    """All API graphs by name."""
    return {p.stem: json.loads(p.read_text("utf-8")) for p in sorted(API.glob("*.json")) if p != DEFINITIONS}


def fetch_definitions(server: str) -> dict:
    """The definitions of the nodes in use from a running server, without what changes with the machine or the wording."""
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
    return {"display_name": definition["display_name"] or definition["name"], "stock": not definition["name"].startswith("ESCDiff"),
            "input": inputs, "output": definition["output"], "output_name": definition["output_name"]}


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
        ready = [k for k in graph if k not in order and all(s in order for s, _ in links_of(graph[k]).values())]
        if not ready:
            raise ValueError(f"the graph runs in a circle: {', '.join(k for k in graph if k not in order)}")
        order.extend(ready)
    return order


def widget_values(node: dict, definition: dict) -> list:
    """The widgets' values as the front end stores them: schema order, a control after a seed, "image" for an upload button."""
    values = []
    for name, (kind, settings) in inputs_of(definition).items():
        if kind not in WIDGETS:
            continue
        given = node["inputs"].get(name)
        values.append(_default(kind, settings) if given is None or is_link(given) else given)
        if kind == "INT" and settings.get("control_after_generate", name in SEEDS):
            values.append(CONTROL.get(node["class_type"], "fixed"))
    uploads = any(settings.get("image_upload") for _, settings in definition["input"].get("required", {}).values())
    return [*values, "image"] if uploads else values


def _default(kind: str, settings: dict):
    first = next(iter(settings.get("options", [])), None)
    return settings.get("default", {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False, "COMBO": first}[kind])


def size_of(node: dict, definition: dict) -> list[int]:
    """Width and height, rather too large than too small, so that nothing overlaps in the front end."""
    inputs = inputs_of(definition)
    widgets = [settings for kind, settings in inputs.values() if kind in WIDGETS]
    tall = sum(bool(s.get("multiline")) for s in widgets)
    seeds = sum(name in SEEDS for name in inputs)
    rows = max(len(inputs) - len(widgets), len(definition["output"]))
    height = rows * SLOT + (len(widgets) + seeds) * WIDGET + tall * 90 + EXTRA_HEIGHT.get(node["class_type"], 0) + 20
    return [WIDE if tall else WIDTH, height]


def columns_of(graph: dict) -> dict[str, int]:
    """Which column each node stands in: its depth, and for one without inputs the column before whoever uses it first."""
    order, column = sources_first(graph), {}
    for key in order:
        column[key] = max((column[s] + 1 for s, _ in links_of(graph[key]).values()), default=0)
    for key in order:
        users = [column[k] for k in graph if any(s == key for s, _ in links_of(graph[k]).values())]
        if not links_of(graph[key]) and users:
            column[key] = min(users) - 1
    return column


def lay_out(graph: dict, sizes: dict[str, list[int]], top: int) -> dict[str, list[int]]:
    """Positions left to right by column; within one, in the order of the API graph."""
    column, places, x = columns_of(graph), {}, 0
    for number in range(max(column.values()) + 1):
        keys = [k for k in graph if column[k] == number]
        y = top
        for key in keys:
            places[key] = [x, y + TITLE]
            y += TITLE + sizes[key][1] + GAP_Y
        x += max(sizes[k][0] for k in keys) + GAP_X
    return places


def to_ui(graph: dict, definitions: dict, note: str = "") -> dict:
    """The API ``graph`` in the front end's format, version 0.4."""
    order = sources_first(graph)
    number = {key: i + 1 for i, key in enumerate(order)}
    sizes = {key: size_of(node, definitions[node["class_type"]]) for key, node in graph.items()}
    note_height = 220 if note else 0
    places = lay_out(graph, sizes, note_height + TITLE + GAP_Y if note else 0)
    nodes, links = {}, []
    for key in order:
        node, definition = graph[key], definitions[graph[key]["class_type"]]
        sockets = [{"name": n, "type": kind, "link": None, **({"shape": 7} if n in definition["input"].get("optional", {}) else {})}
                   for n, (kind, _) in inputs_of(definition).items() if kind not in WIDGETS or n in links_of(node)]
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
            "id": number[key], "type": node["class_type"], "pos": places[key], "size": sizes[key], "flags": {},
            "order": order.index(key), "mode": 0, "inputs": sockets,
            "outputs": [{"name": n, "type": t, "slot_index": i, "links": []}
                        for i, (n, t) in enumerate(zip(definition["output_name"], definition["output"], strict=True))],
            "title": node.get("_meta", {}).get("title", definition["display_name"]),
            "properties": {"Node name for S&R": node["class_type"], "cnr_id": "comfy-core" if definition["stock"] else "escdiff"},
            "widgets_values": widget_values(node, definition)}
    by_number = {n["id"]: n for n in nodes.values()}
    for link in links:
        by_number[link[1]]["outputs"][link[2]]["links"].append(link[0])
    made = list(nodes.values())
    if note:
        made.append({"id": len(made) + 1, "type": "MarkdownNote", "pos": [0, TITLE], "size": [WIDE + 200, note_height], "flags": {},
                     "order": len(made), "mode": 0, "inputs": [], "outputs": [], "title": "How to use this", "properties": {},
                     "widgets_values": [note], "color": "#432", "bgcolor": "#000"})
    return {"last_node_id": len(made), "last_link_id": len(links), "nodes": made, "links": links, "groups": [], "config": {},
            "extra": {}, "version": 0.4}


def to_text(ui: dict) -> str:
    """One line per node and link: files that can be read and compared."""
    def row(thing) -> str:
        return json.dumps(thing, ensure_ascii=False)

    parts = [f' {row(k)}: [\n  ' + ",\n  ".join(row(t) for t in v) + "\n ]" if k in ("nodes", "links") else f" {row(k)}: {row(v)}"
             for k, v in ui.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def draw(ui: dict):
    """A small picture of the graph: boxes with titles, and links in their types' colours. Returns a PIL image."""
    from PIL import Image, ImageDraw

    scale = 2       # drawn larger and made smaller, for smooth lines
    width, height = (scale * side for side in THUMBNAIL)
    picture = Image.new("RGB", (width, height), "#1f2024")
    pen = ImageDraw.Draw(picture)
    boxes = _boxes([n for n in ui["nodes"] if n["type"] != "MarkdownNote"], width, height)
    for _, source, output, target, slot, kind in ui["links"]:
        (_, top, right, _), (left, other_top, _, _) = boxes[source], boxes[target]
        start, end = (right, top + 24 + 12 * output), (left, other_top + 24 + 12 * slot)
        pen.line(_curve(start, end), fill=COLOURS.get(kind, "#9e9e9e"), width=3, joint="curve")
    for node in ui["nodes"]:
        if node["id"] in boxes:
            _draw_box(pen, boxes[node["id"]], node)
    return picture.resize(THUMBNAIL, Image.Resampling.LANCZOS)


def _boxes(nodes: list[dict], width: int, height: int) -> dict[int, tuple[int, int, int, int]]:
    """Left, top, right and bottom of each node in the picture: even columns, and even rows in each."""
    columns = sorted({n["pos"][0] for n in nodes})
    step, margin, boxes = (width - 40) / len(columns), 24, {}
    for number, x in enumerate(columns):
        stack = sorted((n for n in nodes if n["pos"][0] == x), key=lambda n: n["pos"][1])
        box_height = min(150, (height - 2 * margin) / len(stack) - 28)
        top = (height - len(stack) * (box_height + 28) + 28) / 2
        for row, node in enumerate(stack):
            left, y = 20 + number * step + step * 0.1, top + row * (box_height + 28)
            boxes[node["id"]] = (round(left), round(y), round(left + step * 0.8), round(y + box_height))
    return boxes


def _curve(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[float, float]]:
    """A link as the front end draws it: a Bezier curve that leaves and arrives level."""
    (x0, y0), (x3, y3) = start, end
    bend = max(30, (x3 - x0) / 2)
    points = []
    for i in range(33):
        t = i / 32
        a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t ** 3
        points.append((a * x0 + b * (x0 + bend) + c * (x3 - bend) + d * x3, (a + b) * y0 + (c + d) * y3))
    return points


def _draw_box(pen, box: tuple[int, int, int, int], node: dict) -> None:
    from PIL import ImageFont

    own = node["type"].startswith("ESCDiff")
    pen.rounded_rectangle(box, 10, fill="#1d4f50" if own else "#37383f", outline="#4dd0c8" if own else "#6b6d78", width=3)
    lines, size = [node["title"]], 24
    while size > 12:
        font = ImageFont.load_default(size)
        lines = _wrapped(node["title"], font, box[2] - box[0] - 16)
        if lines and len(lines) * size * 1.2 < box[3] - box[1] - 8:
            break
        size -= 1
    for row, line in enumerate(lines or [node["title"]]):
        middle = (box[1] + box[3]) / 2 + (row - (len(lines) - 1) / 2) * size * 1.2
        pen.text(((box[0] + box[2]) / 2, middle), line, font=font, fill="#f2f2f2", anchor="mm")


def _wrapped(text: str, font, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` pixels; empty when one word alone is wider."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(word) > width:
            return []
        lines = [*lines[:-1], longer] if font.getlength(longer) <= width else [*lines, word]
    return lines


def build(definitions: dict) -> dict[str, dict]:
    """All UI graphs by name."""
    return {name: to_ui(graph, definitions, NOTES.get(name, "")) for name, graph in graphs().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", help="a running ComfyUI with this pack, to fetch the node definitions from")
    server = parser.parse_args().server
    if server:
        rows = [f" {json.dumps(k)}: {json.dumps(v)}" for k, v in fetch_definitions(server).items()]
        DEFINITIONS.write_text("{\n" + ",\n".join(rows) + "\n}\n", "utf-8")
    for name, ui in build(json.loads(DEFINITIONS.read_text("utf-8"))).items():
        (HERE / f"{name}.json").write_text(to_text(ui), "utf-8")
        draw(ui).save(HERE / f"{name}.jpg", quality=88)
        print(f"{name}: {len(ui['nodes'])} nodes, {len(ui['links'])} links")


if __name__ == "__main__":
    main()
