"""The workflows that ship: API graphs that fit the nodes, and UI files and thumbnails that fit the API
graphs."""

import json
import textwrap

import numpy as np
import pytest
from node_schemas import read_nodes
from PIL import Image
from shipped import DEFINITIONS, GRAPHS, WORKFLOWS, builder

from escdiff_core.choices import USUAL_GUIDANCE
from escdiff_core.learning.recipes import RECIPES, recipes_for
from escdiff_core.worlds.pocket.config import GUIDANCE

NAMES = sorted(GRAPHS)
SHIPPED = [
    "batch", "pocket_quickstart", "sd15_learn_appearance", "sd15_learn_shape", "sd15_mix",
    "sd15_mix_controlnet", "sd15_photographs", "sdxl_learn_look", "sdxl_learn_shape", "sdxl_mix",
    "shape_and_look", "shape_and_look_app"
]
PYTHON_TYPES = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool, "COMBO": str}


def ui_file(name: str) -> dict:
    return json.loads((WORKFLOWS / f"{builder.TITLES[name]}.json").read_text("utf-8"))


def every_node():
    """(graph's name, node's key, node) of every node in every API graph."""
    return [
        pytest.param(name, key, node, id=f"{name}-{key}")
        for name in NAMES
        for key, node in GRAPHS[name].items()
    ]


def fits(given: str, taken: str) -> bool:
    """Whether an output's type may go into an input, which may take several."""
    return not set(given.split(",")).isdisjoint(taken.split(","))


def test_all_workflows_are_there():
    assert NAMES == SHIPPED
    titles = [builder.TITLES[n] for n in SHIPPED]
    assert sorted(p.stem for p in WORKFLOWS.glob("*.json")) == sorted(titles), (
        "every file here is among ComfyUI's templates"
    )
    assert min(titles) == builder.TITLES["pocket_quickstart"], "it comes first"
    assert (
        len({t.split()[0] for t in titles}) == len(titles)
        and max(map(len, titles)) <= 45
        and set(builder.NOTES) == set(SHIPPED)
    )


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
            assert 0 <= output < len(outputs) and fits(outputs[output], kind), (
                f"{key}.{given} is linked to something else"
            )
            continue
        assert isinstance(value, PYTHON_TYPES[kind]) and (kind == "BOOLEAN" or not isinstance(value, bool)), (
            given
        )
        if settings.get("options"):
            assert value in settings["options"], given
        if kind in ("INT", "FLOAT"):
            assert settings["min"] <= value <= settings["max"], given
    assert node["_meta"]["title"]


def test_the_quick_start_needs_no_file():
    machine = [
        f"{node['class_type']}.{given}"
        for node in GRAPHS["pocket_quickstart"].values()
        for given in node["inputs"]
        if given in builder.FILE_INPUTS and not builder.is_link(node["inputs"][given])
    ]
    assert not machine
    examples = {
        node["inputs"]["example"]
        for node in GRAPHS["pocket_quickstart"].values()
        if "example" in node["inputs"]
    }
    _, settings = builder.inputs_of(DEFINITIONS["ESCDiffExampleReference"])["example"]
    assert len(examples) == 2 and examples <= set(settings["options"])


def test_saved_definitions_are_those_in_use_and_of_no_machine():
    assert set(DEFINITIONS) == {node["class_type"] for graph in GRAPHS.values() for node in graph.values()}
    files = [options for d in DEFINITIONS.values() for name, (_, s) in builder.inputs_of(d).items()
             if name in builder.FILE_INPUTS and (options := s.get("options"))]
    assert not files


def test_saved_definitions_offer_the_recipes_there_are():
    offered = {}
    for node, definition in DEFINITIONS.items():
        for name, (_, settings) in builder.inputs_of(definition).items():
            if "recipe" in name and settings.get("options"):
                offered[node, name] = [o for o in settings["options"] if o != "recipe's own"]
    kinds = {"LearnShape": "shape", "LearnLook": "appearance", "shape_recipe": "shape",
             "look_recipe": "appearance"}
    for (node, name), recipes in offered.items():
        kind = kinds.get(name) or kinds.get(node.removeprefix("ESCDiff"))
        assert recipes == (recipes_for(kind) if kind else list(RECIPES)), "build.py --server reads them again"
    assert len(offered) == 5


def test_the_guidance_is_the_usual_one_of_the_model():
    """One value for the command, the previews, the node that samples, and the graphs that ship."""
    for name, graph in GRAPHS.items():
        own = any(node["class_type"] == "ESCDiffLoadPocketModel" for node in graph.values())
        for node in graph.values():
            if node["class_type"] == "KSampler":
                assert node["inputs"]["cfg"] == (GUIDANCE if own else USUAL_GUIDANCE), name
    inputs = read_nodes()["ESCDiffMixedSampler"].inputs
    assert next(port.default for port in inputs if port.key == "cfg") == USUAL_GUIDANCE


def test_ui_files_are_what_the_builder_makes():
    for name, ui in builder.build(DEFINITIONS).items():
        assert (WORKFLOWS / f"{builder.TITLES[name]}.json").read_text("utf-8") == builder.to_text(ui), \
            f"{name}: run python example_workflows/build.py"


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
    """Read back as the front end does: widgets in schema order, a control below each seed, links by
    number."""
    ui, graph = ui_file(name), GRAPHS[name]
    links = {link[0]: link for link in ui["links"]}
    key_of = dict(zip([n["id"] for n in ui["nodes"]], builder.sources_first(graph), strict=False))
    for node in ui["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        read = {
            i["name"]: [key_of[links[i["link"]][1]], links[i["link"]][2]] for i in node["inputs"] if i["link"]
        }
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
        assert {k: read[k] for k in wanted["inputs"]} == wanted["inputs"] | builder.UNCHOSEN.get(
            node["type"], {}
        )
        assert None not in read.values()


def unfolded(node: dict) -> list[int]:
    """How large a node is where its advanced inputs show, as on older front ends."""
    return builder.size_of({"class_type": node["type"]},
                           DEFINITIONS[node["type"]]) if node["type"] in DEFINITIONS else node["size"]


@pytest.mark.parametrize("name", SHIPPED)
def test_nodes_do_not_overlap_even_unfolded(name):
    nodes = [(n, *unfolded(n)) for n in ui_file(name)["nodes"]]
    assert all(n["size"][0] == width and n["size"][1] <= height for n, width, height in nodes)
    assert any(n["size"][1] < height for n, _, height in nodes), "something folds in each"
    boxes = [
        (n["pos"][0], n["pos"][1] - builder.TITLE, n["pos"][0] + width, n["pos"][1] + height)
        for n, width, height in nodes
    ]
    for i, (left, top, right, bottom) in enumerate(boxes):
        for other_left, other_top, other_right, other_bottom in boxes[:i]:
            assert right <= other_left or other_right <= left or bottom <= other_top or other_bottom <= top


@pytest.mark.parametrize("name", SHIPPED)
def test_titles_and_notes_are_shown_whole(name):
    for node in ui_file(name)["nodes"]:
        assert len(node["title"]) <= node["size"][0] // 10, "the front end cuts it off"
        if node["type"] == "MarkdownNote":
            (note,), (width, height) = node["widgets_values"], node["size"]
            lines = sum(len(textwrap.wrap(line, (width - 60) // 7)) or 1 for line in note.split("\n"))
            assert 16 * lines + 20 <= height <= 22 * lines + 60, "cut off, or a black field"


@pytest.mark.parametrize("name", SHIPPED)
def test_the_pocket_model_is_sampled_at_the_command_s_timesteps(name):
    """Its schedule is trailing, and that is the KSampler's ``simple``; test_host_server.py holds it to the
    picture."""
    kinds = {node["class_type"]: node for node in GRAPHS[name].values()}
    assert (kinds.get("KSampler", {}).get("inputs", {}).get("scheduler") == "simple") == (
        "ESCDiffLoadPocketModel" in kinds
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_all_of_it_fits_a_page_with_words_large_enough(name):
    """The front end opens a template so that all of it is seen, and leaves out words that would be too
    small."""
    nodes = {n["id"]: n for n in ui_file(name)["nodes"]}
    assert (
        builder.zoom_of({i: n["pos"] for i, n in nodes.items()}, {i: unfolded(n) for i, n in nodes.items()})
        >= 0.57
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_a_thumbnail_shows_what_went_in_and_what_came_out(name):
    with Image.open(WORKFLOWS / f"{builder.TITLES[name]}.jpg") as picture:
        assert picture.format == "JPEG" and picture.size == builder.thumbnails.SIZE
        made = np.asarray(builder.thumbnails.thumbnail(name), np.float32)
        assert np.abs(np.asarray(picture, np.float32) - made).mean() < 4, (
            "run python example_workflows/build.py"
        )


@pytest.mark.parametrize("name", SHIPPED)
def test_models_that_are_not_everybody_s_are_offered_for_download(name):
    own = ("example.png", "shape.safetensors", "appearance.safetensors", "sdxl_shape.safetensors",
           "sdxl_look.safetensors")
    files = {v for node in GRAPHS[name].values() for k, v in node["inputs"].items()
             if k in builder.FILE_INPUTS and not builder.is_link(v) and v not in own}
    offered = {m["name"]: m for n in ui_file(name)["nodes"] for m in n["properties"].get("models", ())}
    assert set(offered) == files
    assert all(
        m["url"].startswith("https://") and f"/{m['name']}" in m["url"] and m["directory"]
        for m in offered.values()
    )


def test_the_app_asks_for_two_pictures_and_a_prompt_and_shows_what_is_drawn():
    ui = ui_file("shape_and_look_app")
    nodes = {str(n["id"]): n for n in ui["nodes"]}
    data = ui["extra"]["linearData"]
    assert ui["extra"]["linearMode"] and [nodes[n]["type"] for n in data["outputs"]] == ["SaveImage"]
    assert [nodes[n]["type"] for n, _ in data["inputs"]] == ["ESCDiffExampleReference"] * 2 + [
        "ESCDiffShapeAndLook",
        "KSampler",
    ]
    for number, widget in data["inputs"]:
        assert widget in builder.inputs_of(DEFINITIONS[nodes[number]["type"]])
    labels = [
        next((i["label"] for i in nodes[number]["inputs"] if i["name"] == widget and "label" in i), widget)
        for number, widget in data["inputs"]
    ]
    assert labels == ["picture for the shape", "picture for the look", "prompt", "seed"]
    assert "linearMode" not in ui_file("shape_and_look")["extra"]


def test_the_subgraph_is_what_the_builder_makes_and_whole():
    made = builder.build_blueprint(DEFINITIONS)
    path = builder.blueprint.FOLDER / f"{builder.blueprint.NAME}.json"
    assert json.loads(path.read_text("utf-8")) == made, "run python example_workflows/build.py"
    inner = made["definitions"]["subgraphs"][0]
    nodes = {n["id"]: n for n in inner["nodes"]}
    assert sorted(n["type"]
                  for n in nodes.values()) == ["ESCDiffLearnLook", "ESCDiffLearnShape", "ESCDiffMix"]
    ends = {e: [{link for link in end["linkIds"]} for end in inner[e]] for e in ("inputs", "outputs")}
    for link in inner["links"]:
        source, target = nodes.get(link["origin_id"]), nodes.get(link["target_id"])
        if source:
            assert link["id"] in source["outputs"][link["origin_slot"]]["links"]
        else:
            assert link["id"] in ends["inputs"][link["origin_slot"]]
        if target:
            socket = target["inputs"][link["target_slot"]]
            assert socket["link"] == link["id"] and fits(link["type"], socket["type"])
        else:
            assert link["id"] in ends["outputs"][link["target_slot"]]
    required = {
        (n["type"], name)
        for n in nodes.values()
        for name, (kind, _) in DEFINITIONS[n["type"]]["input"]["required"].items()
        if kind not in builder.WIDGETS
    }
    linked = {(n["type"], i["name"]) for n in nodes.values() for i in n["inputs"] if i["link"]}
    assert required <= linked


def test_a_circle_is_refused():
    with pytest.raises(ValueError, match="circle: a, b"):
        builder.sources_first({"a": {"inputs": {"x": ["b", 0]}}, "b": {"inputs": {"x": ["a", 0]}}})
