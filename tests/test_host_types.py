"""Wires between our nodes in real ComfyUIs: a shape where a look belongs is refused before anything runs;
what nodes are called."""


import pytest

OF = {"shape": "shape", "look": "appearance", "box's shape": "shape", "box's look": "appearance"}
EITHER = {"either", "file", "saved"}        # nodes that give one or the other: their wire fits both


def test_a_swapped_wire_is_refused_and_every_other_fits(found):
    assert set(found["wires"]) == set(OF) | EITHER
    for source, sinks in found["wires"].items():
        for sink, said in sinks.items():
            swapped = "." in sink and OF.get(source, sink.split(".")[1]) != sink.split(".")[1]
            assert [line.split(":")[0]
                    for line in said] == ["return_type_mismatch"] * swapped, (source, sink, said)
    refused = found["wires"]["look"]["Mix.shape"][0]
    assert "ESCDIFF_APPEARANCE" in refused and "ESCDIFF_SHAPE" in refused, "the message names both"


def test_either_filter_fits_tune(found):
    assert found["tokens"] == {"Shape": [], "Appearance": []}


def test_graphs_that_were_saved_before_there_were_two_types_are_taken(found):
    assert len(found["saved graphs"]) == 6 and not any(found["saved graphs"].values()), found["saved graphs"]


def test_outputs_have_names_and_not_those_of_our_types(found):
    for name, node in found["nodes"].items():
        names = node["output_name"]
        assert len(set(names)) == len(names), f"{name}: {names}"
        assert not [n for n in names if n.startswith("ESCDIFF") or n in ("STRING", "FLOAT", "INT")], (
            f"{name}: {names}"
        )


def test_what_most_people_need_comes_first(found):
    order, category = list(found["nodes"]), {name: node["category"] for name, node in found["nodes"].items()}
    assert order[:5] == [
        f"ESCDiff{n}" for n in ("ShapeAndLook", "LearnShape", "LearnLook", "LoadAttribute", "Mix")
    ]
    assert {category[name] for name in order[:5]} == {"ESCDiff"}
    assert {n
            for n, c in category.items()
            if c == "ESCDiff/building blocks"} == {
                f"ESCDiff{n}"
                for n in ("LearnAttribute", "ShapeFilter", "AppearanceFilter", "Tune", "TrainFilters",
                          "ReferenceFeatures", "LoadReferenceEncoder", "Apply", "Prompt", "Clear",
                          "MixedSampler")
            }


def test_nodes_are_found_by_the_words_that_artists_type(found):
    aliases = {name: node.get("search_aliases") for name, node in found["nodes"].items()}
    if not any(aliases.values()):
        pytest.skip("this ComfyUI has no search aliases yet")
    for words, nodes in {
        "train shape": ["LearnShape"],
        "lora train": ["LearnShape", "LearnLook"],
        "style transfer": ["LearnLook"],
        "reference image": ["ShapeAndLook", "LearnShape", "LearnLook"],
        "ipadapter": ["ShapeAndLook"],
    }.items():
        for node in nodes:
            assert words in aliases[f"ESCDiff{node}"], f"{node} is not found by {words!r}"
    takes_a_picture = {
        n
        for n, node in found["nodes"].items()
        if any(
            spec[0] == "IMAGE"
            for group in ("required", "optional")
            for spec in node["input"].get(group, {}).values()
        )
    }
    assert {n for n, words in aliases.items() if "ipadapter" in (words or ())} <= takes_a_picture
