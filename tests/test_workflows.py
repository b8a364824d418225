"""The workflows that ship: API graphs that fit the nodes, and UI files and thumbnails that fit the API graphs."""

import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"


def _load_builder():
    spec = importlib.util.spec_from_file_location("build_workflows", WORKFLOWS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


builder = _load_builder()
DEFINITIONS = json.loads(builder.DEFINITIONS.read_text("utf-8"))
GRAPHS = builder.graphs()
NAMES = sorted(GRAPHS)
SHIPPED = ["batch", "pocket_quickstart", "sd15_learn_appearance", "sd15_learn_shape", "sd15_mix", "sd15_mix_controlnet"]
PYTHON_TYPES = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool, "COMBO": str}


def ui_file(name: str) -> dict:
    return json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))


def every_node():
    """(graph's name, node's key, node) of every node in every API graph."""
    return [pytest.param(name, key, node, id=f"{name}-{key}") for name in NAMES for key, node in GRAPHS[name].items()]


def fits(given: str, taken: str) -> bool:
    """Whether an output's type may go into an input, which may take several."""
    return not set(given.split(",")).isdisjoint(taken.split(","))


def test_all_workflows_are_there():
    assert NAMES == SHIPPED
    assert sorted(p.stem for p in WORKFLOWS.glob("*.json")) == SHIPPED, "every file here shows up among ComfyUI's templates"


@pytest.mark.parametrize("name, key, node", every_node())
def test_a_node_of_an_api_graph_fits_its_definition(name, key, node):
    definition = DEFINITIONS[node["class_type"]]
    known = builder.inputs_of(definition)
    assert set(node["inputs"]) <= set(known), "an input that the node does not have"
    assert set(definition["input"].get("required", {})) <= set(node["inputs"]), "a required input is missing"
    for given, value in node["inputs"].items():
        kind, settings = known[given]
        if builder.is_link(value):
            source, output = value
            outputs = DEFINITIONS[GRAPHS[name][source]["class_type"]]["output"]
            assert 0 <= output < len(outputs) and fits(outputs[output], kind), f"{key}.{given} is linked to something else"
            continue
        assert isinstance(value, PYTHON_TYPES[kind]) and (kind == "BOOLEAN" or not isinstance(value, bool)), given
        if settings.get("options"):
            assert value in settings["options"], given
        if kind in ("INT", "FLOAT"):
            assert settings["min"] <= value <= settings["max"], given
    assert node["_meta"]["title"]


def test_the_quick_start_needs_no_file():
    machine = [f"{node['class_type']}.{given}" for node in GRAPHS["pocket_quickstart"].values() for given in node["inputs"]
               if given in builder.FILE_INPUTS and not builder.is_link(node["inputs"][given])]
    assert not machine
    examples = {node["inputs"]["example"] for node in GRAPHS["pocket_quickstart"].values() if "example" in node["inputs"]}
    _, settings = builder.inputs_of(DEFINITIONS["ESCDiffExampleReference"])["example"]
    assert len(examples) == 2 and examples <= set(settings["options"])


def test_saved_definitions_are_those_in_use_and_of_no_machine():
    assert set(DEFINITIONS) == {node["class_type"] for graph in GRAPHS.values() for node in graph.values()}
    files = [options for d in DEFINITIONS.values() for name, (_, s) in builder.inputs_of(d).items()
             if name in builder.FILE_INPUTS and (options := s.get("options"))]
    assert not files


def test_ui_files_are_what_the_builder_makes():
    for name, ui in builder.build(DEFINITIONS).items():
        assert (WORKFLOWS / f"{name}.json").read_text("utf-8") == builder.to_text(ui), f"{name}: run python workflows/build.py"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_ui_file_is_whole(name):
    ui = ui_file(name)
    nodes = {n["id"]: n for n in ui["nodes"]}
    assert len(nodes) == len(ui["nodes"]) == ui["last_node_id"] == max(nodes)
    assert [link[0] for link in ui["links"]] == list(range(1, ui["last_link_id"] + 1))
    for number, source, output, target, slot, kind in ui["links"]:
        out, into = nodes[source]["outputs"][output], nodes[target]["inputs"][slot]
        assert number in out["links"] and into["link"] == number and out["type"] == kind
        assert fits(kind, into["type"])
        assert nodes[source]["pos"][0] < nodes[target]["pos"][0], "links run from left to right"
    assert sum(len(o["links"]) for n in nodes.values() for o in n["outputs"]) == len(ui["links"])
    assert sum(i["link"] is not None for n in nodes.values() for i in n["inputs"]) == len(ui["links"])


@pytest.mark.parametrize("name", SHIPPED)
def test_a_ui_file_says_the_same_as_its_api_graph(name):
    """Read back as the front end does: widgets in schema order, a control below each seed, links by number."""
    ui, graph = ui_file(name), GRAPHS[name]
    links = {link[0]: link for link in ui["links"]}
    key_of = dict(zip([n["id"] for n in ui["nodes"]], builder.sources_first(graph), strict=False))
    for node in ui["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        read = {i["name"]: [key_of[links[i["link"]][1]], links[i["link"]][2]] for i in node["inputs"] if i["link"]}
        values = iter(node["widgets_values"])
        for given, (kind, settings) in builder.inputs_of(DEFINITIONS[node["type"]]).items():
            if kind in builder.WIDGETS:
                read.setdefault(given, next(values))
            if given == "seed" and settings.get("control_after_generate", True):
                assert next(values) in ("fixed", "randomize")
            if settings.get("image_upload"):
                assert next(values) == "image"
        assert not list(values)
        wanted = graph[key_of[node["id"]]]
        assert node["type"] == wanted["class_type"] and node["title"] == wanted["_meta"]["title"]
        assert {k: read[k] for k in wanted["inputs"]} == wanted["inputs"]
        assert None not in read.values()


@pytest.mark.parametrize("name", SHIPPED)
def test_nodes_do_not_overlap(name):
    boxes = [(n["pos"][0], n["pos"][1] - builder.TITLE, n["pos"][0] + n["size"][0], n["pos"][1] + n["size"][1])
             for n in ui_file(name)["nodes"]]
    for i, (left, top, right, bottom) in enumerate(boxes):
        for other_left, other_top, other_right, other_bottom in boxes[:i]:
            assert right <= other_left or other_right <= left or bottom <= other_top or other_bottom <= top


@pytest.mark.parametrize("name", SHIPPED)
def test_a_ui_file_has_a_thumbnail(name):
    with Image.open(WORKFLOWS / f"{name}.jpg") as picture:
        assert picture.format == "JPEG" and picture.size == builder.THUMBNAIL
        assert len(picture.convert("L").getcolors()) > 50, "the picture is empty"


def test_a_circle_is_refused():
    with pytest.raises(ValueError, match="circle: a, b"):
        builder.sources_first({"a": {"inputs": {"x": ["b", 0]}}, "b": {"inputs": {"x": ["a", 0]}}})
