"""What the pack asks of real ComfyUIs, and what it says on one that has changed."""

import ast
from pathlib import Path

import pytest
from hosts import ROOT, newest, version

HOST = ("comfy", "comfy_api", "folder_paths", "latent_preview")


def used_by(path: Path) -> set[str]:
    """The dotted names of the host in a file."""
    tree, roots, made = ast.parse(path.read_text()), {}, set()
    for n in ast.walk(tree):
        if isinstance(n, ast.ImportFrom) and not n.level and n.module.split(".")[0] in HOST:
            roots |= {a.asname or a.name: f"{n.module}.{a.name}" for a in n.names}
        elif isinstance(n, ast.Import):
            roots |= {name: name for name in (a.name.split(".")[0] for a in n.names) if name in HOST}
    for n in ast.walk(tree):
        parts = []
        while isinstance(n, ast.Attribute):
            parts, n = [n.attr, *parts], n.value
        if isinstance(n, ast.Name) and n.id in roots:
            made.add(".".join([roots[n.id], *parts]))
    return made


def test_the_host_is_as_the_pack_needs_it(found):
    assert found["missing"] == {} and found["warned at load"] == []


def test_the_newest_host_has_what_came_later(found, host):
    if host != newest():
        pytest.skip("an older ComfyUI")
    assert found["later"] == []


def test_the_contract_lists_all_that_the_pack_uses(found):
    listed = found["names"]
    used = set().union(*map(used_by, (ROOT / "nodes").rglob("*.py")))
    assert len(used) > 50
    assert {u for u in used if not any(name == u or name.startswith(f"{u}.") for name in listed)} == set()


@pytest.mark.parametrize("case, warns, sentence", [
    ("a name is gone", True, "comfy.lora.calculate_weight is not there"),
    ("a parameter is gone", True, "comfy.lora.load_lora takes no to_load and no log_missing"),
    ("another answer", False, "not so any more: tokenize gives the number of its word with each id"),
    ("another meaning", False, "not so any more: a vector in the place of an id is read as a word"),
])
def test_a_changed_host_is_one_sentence_before_anything_is_learned(found, host, case, warns, sentence):
    seen = found[case]
    assert [sentence in line for line in seen["warned"]] == [True] * warns
    assert sentence in seen["said"] and version(host) in seen["said"] and "\n" not in seen["said"]
    assert seen["seconds"] < 20, "500 steps would take minutes"


def test_weights_ride_on_prompts_only_where_they_change_on_the_way(found):
    """Where they do, a ComfyUI with dynamic VRAM loads the model a second time."""
    assert found["needs hooks"] == ["weights end"]


def test_a_pocket_model_in_dynamic_memory_is_loaded_again_for_hooks_alone(found):
    if "dynamic" not in found:
        pytest.skip("this ComfyUI has no dynamic VRAM")
    assert found["the loader is registered"] and found["CLIP and VAE too"] == [False, False]
    assert {name: times for name, (_, times) in found["dynamic"].items() if times} == {"weights end": 1}
    assert all(difference <= 1e-5 for difference, _ in found["dynamic"].values()), found["dynamic"]
