"""The nodes in other languages: nothing is missing, nothing is stale, and ComfyUI serves it."""

import importlib.util
import json
import re

import pytest
from node_schemas import ROOT, Node, Port, read_nodes

LOCALES = ROOT / "locales"
spec = importlib.util.spec_from_file_location("build_locales", LOCALES / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

NODES = read_nodes()
TITLES = sorted((node.title for node in NODES.values()), key=len, reverse=True)
# What means the same to everybody, and to the program: tokens, figures, folders, names of nodes, options and
# files
KEPT = re.compile("|".join([
    r"\*[ma]\b", r"\d+(?:\.\d+)?", r"models/\w+", *map(re.escape, TITLES), "KSampler", "VAE Decode",
    "InvertMask", "LoadImage", "ControlNet", "'on a yellow table'", "-full", "-paper", r"\bvase\b",
    r"\bcat\b", r"\bfull\b(?= is)", r"\w+\.safetensors", "JSON", "diffusers", "UNet", "LoRA", "CPU"
]))
LATIN = "[a-z]"
SCRIPTS = {
    "zh": "[一-鿿]", "zh-TW": "[一-鿿]", "ja": "[ぁ-ヿ一-鿿]", "ko": "[가-힣]", "ru": "[а-яё]",
    "fr": LATIN, "es": LATIN
}


@pytest.fixture(params=build.LANGUAGES)
def language(request) -> str:
    return request.param


def test_every_language_of_the_tables_is_built_and_no_other():
    assert (
        {p.stem for p in LOCALES.glob("*.json")}
        == {p.name for p in LOCALES.iterdir() if p.is_dir() and p.name[0] not in "._"}
        == set(build.LANGUAGES)
        == set(SCRIPTS)
    )


def test_no_word_of_the_nodes_is_missing_and_none_is_stale(language):
    table, wanted = build.read_table(language), build.sentences(NODES)
    assert [text for text in wanted if not table.get(text, "").strip()] == [], (
        f"python locales/build.py {language} lists them"
    )
    assert [text for text in table if text not in wanted] == [], (
        "words of the nodes no more: take them out of the table"
    )


def test_what_comfyui_reads_is_what_is_built_from_the_table(language):
    for name, content in zip(
        ("nodeDefs", "main"), build.translate(NODES, build.read_table(language)), strict=True
    ):
        path = LOCALES / language / f"{name}.json"
        assert path.read_text(encoding="utf-8") == build.written(content), "python locales/build.py"


def test_a_translation_is_one_and_keeps_what_must_not_be_translated(language):
    table = build.read_table(language)
    for english, text in table.items():
        if english in TITLES:
            assert text.startswith("ESCDiff ") and len(text) > 9, text
            continue
        lost = [word for word in KEPT.findall(english) if word not in text]
        assert not lost, f"{lost} is not in {text!r}"
        assert not re.search(r"[{}@|]", text), f"the front end takes {text!r} for a pattern"
        if len(re.findall("[a-z]{3,}", english)) > 1:
            assert text != english and re.search(SCRIPTS[language], text.lower()), text
    titles = [table[title] for title in TITLES]
    assert len(set(titles)) == len(titles), "two nodes of one name"


def test_titles_inside_sentences_are_the_titles_of_that_language():
    node = Node("ESCDiff Mix", "Before ESCDiff Mixed Sampler or ESCDiff Mix.",
                [Port("a.b", tooltip="It.", key="a.b")], [Port("MODEL")], "x")
    nodes = {"Mix": node, "Other": Node("ESCDiff Mixed Sampler", "It.", [], [], "")}
    table = {
        "ESCDiff Mix": "ESCDiff M", "ESCDiff Mixed Sampler": "ESCDiff MS", "x": "X", "a.b": "AB",
        "MODEL": "MODEL", "It.": "Es.", node.description: "Vor ESCDiff Mixed Sampler oder ESCDiff Mix."
    }
    definitions, main = build.translate(nodes, table)
    assert definitions["Mix"] == {
        "display_name": "ESCDiff M",
        "description": "Vor ESCDiff MS oder ESCDiff M.",
        "inputs": {"a_b": {"name": "AB", "tooltip": "Es."}},
        "outputs": {"0": {"name": "MODEL"}},
    }
    assert main == {"nodeCategories": {"x": "X"}}
    assert build.sentences(nodes) == [
        node.title, node.description, "a.b", "It.", "MODEL", "x", "ESCDiff Mixed Sampler"
    ]
    del table["It."]
    with pytest.raises(KeyError):
        build.translate(nodes, table)


@pytest.mark.slow
def test_comfyui_serves_them_for_the_nodes_it_has(server):
    served, info = server.get("/i18n"), server.get("/object_info")
    ours = {key: node for key, node in info.items() if key.startswith("ESCDiff")}
    for language in build.LANGUAGES:
        definitions = served[language]["nodeDefs"]
        assert definitions == json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))
        assert set(definitions) == set(ours)
        for key, node in ours.items():
            inputs = [*node["input"].get("required", {}), *node["input"].get("optional", {})]
            assert sorted(definitions[key]["inputs"]) == sorted(inputs), key
            assert len(definitions[key]["outputs"]) == len(node["output"]), key
        groups = {part for node in ours.values() for part in node["category"].split("/")[1:]}
        assert set(served[language]["nodeCategories"]) == groups
