"""The box of the quick start as a subgraph that people can open and change: ``subgraphs/ESCDiff Shape and
Look.json``.

Called by build.py. What the node ESCDiff Shape and Look does in code stands here as nodes: learn both, and
mix them.
"""

import uuid
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "subgraphs"
NAME = "ESCDiff Shape and Look"
INPUT, OUTPUT = -10, -20            # the front end's numbers for a subgraph's own two ends
# Of the quick start: the nodes inside, and what each end of the subgraph is joined to
INSIDE = ("learn_shape", "learn_appearance", "mix")
INPUTS = {
    **{
        name: [(node, name) for node in INSIDE if (node, name) != ("mix", "vae")]
        for name in ("model", "clip", "vae")
    },
    "shape_picture": [("learn_shape", "image")],
    "look_picture": [("learn_appearance", "image")],
    "prompt": [("mix", "prompt")],
    "negative": [("mix", "negative")],
    "shape_mask": [("learn_shape", "mask")],
    "look_mask": [("learn_appearance", "mask")],
    "encoder": [("learn_shape", "encoder"), ("learn_appearance", "encoder")],
}
OUTPUTS = {"MODEL": ("mix", 0), "positive": ("mix", 1), "negative": ("mix", 2), "shape": ("learn_shape", 0),
           "look": ("learn_appearance", 0)}
WORDS = ("prompt", "negative")      # widgets of the box itself


def identity(*names: str) -> str:
    """A number that is the same each time this is built."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(("escdiff", *names))))


def blueprint(ui: dict, keys: dict[int, str]) -> dict:
    """The subgraph, made of the quick start's UI graph ``ui``; ``keys`` are the names of its nodes."""
    nodes = {keys[n["id"]]: n for n in ui["nodes"] if keys.get(n["id"]) in INSIDE}
    slots = {
        (key, socket["name"]): slot
        for key, node in nodes.items()
        for slot, socket in enumerate(node["inputs"])
    }
    inner = {n["id"]: key for key, n in nodes.items()}
    links = [{
        "id": number, "origin_id": source, "origin_slot": output, "target_id": target, "target_slot": slot,
        "type": kind
    } for number, source, output, target, slot, kind in ui["links"] if source in inner and target in inner]
    for node in nodes.values():
        for socket in node["inputs"]:
            socket["link"] = socket["link"] if socket["link"] in {link["id"] for link in links} else None
        for socket in node["outputs"]:
            socket["links"] = [link["id"] for link in links if link["origin_id"] == node["id"]
                               and link["origin_slot"] == socket["slot_index"]]

    def join(kind: str, origin: tuple[int, int], target: tuple[int, int]) -> int:
        number = 1 + max((link["id"] for link in links), default=0)
        links.append({"id": number, "origin_id": origin[0], "origin_slot": origin[1], "target_id": target[0],
                      "target_slot": target[1], "type": kind})
        return number

    left, right = (f(n["pos"][0] for n in nodes.values()) for f in (min, max))
    ends: dict[str, list] = {"inputs": [], "outputs": []}
    for place, (name, targets) in enumerate(INPUTS.items()):
        joined = []
        for key, given in targets:
            if (key, given) not in slots:           # a widget, which becomes a socket where a link goes in
                slots[key, given] = len(nodes[key]["inputs"])
                nodes[key]["inputs"].append(
                    {"name": given, "type": "STRING", "widget": {"name": given}, "link": None}
                )
            socket = nodes[key]["inputs"][slots[key, given]]
            socket["link"] = join(socket["type"], (INPUT, place), (nodes[key]["id"], slots[key, given]))
            joined.append((socket["link"], socket["type"]))
        ends["inputs"].append({
            "id": identity("in", name), "name": name, "type": joined[0][1], "linkIds": [n for n, _ in joined],
            "pos": [left - 180, 40 + 20 * place]
        })
    for place, (name, (key, slot)) in enumerate(OUTPUTS.items()):
        socket = nodes[key]["outputs"][slot]
        number = join(socket["type"], (nodes[key]["id"], slot), (OUTPUT, place))
        socket["links"].append(number)
        ends["outputs"].append({
            "id": identity("out", name), "name": name, "type": socket["type"], "linkIds": [number],
            "pos": [right + 480, 40 + 20 * place]
        })
    values = {"prompt": "a photo of a *m with *a appearance on a white background", "negative": ""}
    made = {
        "id": identity("subgraph"),
        "version": 1,
        "revision": 0,
        "config": {},
        "name": NAME,
        "state": {
            "lastGroupId": 0,
            "lastNodeId": max(inner),
            "lastLinkId": max(link["id"] for link in links),
            "lastRerouteId": 0,
        },
        "inputNode": {"id": INPUT, "bounding": [left - 280, 20, 120, 20 * len(INPUTS) + 40]},
        "outputNode": {"id": OUTPUT, "bounding": [right + 460, 20, 120, 20 * len(OUTPUTS) + 40]},
        **ends,
        "widgets": [],
        "nodes": list(nodes.values()),
        "groups": [],
        "links": links,
        "extra": {},
        "category": "ESCDiff",
        "description": "Learns the shape of one picture and the look of another, and mixes both.",
    }
    box = {
        "id": 1, "type": made["id"], "pos": [0, 0], "size": [420, 360], "flags": {}, "order": 0, "mode": 0,
        "inputs": [{
            "name": e["name"], "type": e["type"], "link": None,
            **({"widget": {"name": e["name"]}} if e["name"] in WORDS else {})
        } for e in made["inputs"]], "outputs": [{"name": e["name"], "type": e["type"], "links": None}
                                                for e in made["outputs"]], "title": NAME,
        "properties": {"proxyWidgets": [["-1", name] for name in WORDS],
                       "cnr_id": "escdiff"}, "widgets_values": [values[name] for name in WORDS]
    }
    return {"revision": 0, "last_node_id": 1, "last_link_id": 0, "nodes": [box], "links": [], "version": 0.4,
            "definitions": {"subgraphs": [made]}, "extra": {}}
