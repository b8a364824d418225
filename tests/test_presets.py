"""Blocks and presets on full-size SD 1.5 (meta device): every tensor in one block, every block with known
owners."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel

from escdiff_core.errors import ESCDiffError
from escdiff_core.families import FAMILIES
from escdiff_core.learning.recipes import RECIPES, Recipe, find_recipe
from escdiff_core.model.names import to_canonical, to_diffusers, unet_map
from escdiff_core.unet.blocks import KINDS, PRESETS, block_of, find_preset

DOWN = {f"down_blocks.{level}.{part}" for level in range(4) for part in (0, 1, "resample")} - {
    "down_blocks.3.resample"
}
UP = {f"up_blocks.{level}.{part}" for level in range(4) for part in (0, 1, 2, "resample")} - {
    "up_blocks.3.resample"
}
ALL = DOWN | UP | {"conv_in", "conv_out", "mid_block", "time_embedding"}
FINE = {b for b in UP if b.startswith(("up_blocks.2", "up_blocks.3"))} | {"conv_out"}
FINE_PLUS = FINE | {"up_blocks.1.2", "up_blocks.1.resample"}
# preset: (shape, appearance) as METHODS §2 names them
OWNERS = {
    "b-lora": ({"up_blocks.1.0"}, {"up_blocks.1.1"}),
    "paper": (DOWN | {"conv_in"}, UP | {"conv_out"}),
    "paper+middle": (DOWN | {"conv_in", "mid_block"}, UP | {"conv_out"}),
    "resolution": (
        ALL
        - FINE_PLUS
        - {b for b in ALL if b.startswith(("down_blocks.0", "down_blocks.1"))}
        - {"conv_in", "time_embedding"},
        FINE_PLUS | {"conv_in"} | {b for b in DOWN if b.startswith(("down_blocks.0", "down_blocks.1"))},
    ),
    "fine-decoder": (set(), FINE),
    "fine-decoder+": (set(), FINE_PLUS),
    "coarse-fine": (ALL - FINE_PLUS - {"time_embedding"}, FINE_PLUS),
    "whole": (ALL, ALL),
}


@pytest.fixture(scope="module")
def unet():
    with init_empty_weights():
        return UNet2DConditionModel.from_config(FAMILIES["sd15"].unet)


def test_every_tensor_maps_both_ways_and_lies_in_one_block(unet):
    state = unet.state_dict()
    mapping = unet_map(unet.config)
    assert len(state) == 686 and list(to_diffusers(to_canonical(state, mapping), mapping)) == list(state)
    tensors = Counter(map(block_of, state))
    assert set(tensors) == ALL and sum(tensors.values()) == 686


def test_modules_and_processors_have_the_block_of_their_tensors(unet):
    layers = [n for n in unet.attn_processors if ".attn2." in n]
    assert Counter(block_of(n).split("_")[0] for n in layers) == {"down": 6, "mid": 1, "up": 9}
    assert all(block_of(n) == block_of(n.replace("processor", "to_k.weight")) for n in layers)


@pytest.mark.parametrize("name", PRESETS)
def test_each_block_has_its_owners(name, unet):
    names, preset = list(unet.state_dict()), find_preset(name)
    for kind, expected in zip(KINDS, OWNERS[name], strict=True):
        if expected:
            assert preset.blocks(kind, names) == tuple(sorted(expected))
    shape, appearance = OWNERS[name]
    assert name == "whole" or not shape & appearance, "within a preset, two attributes touch disjoint tensors"
    assert set(preset.blocks("concept", names)) == shape | appearance


def test_trained_state_of_the_halves_stays_within_the_aims(unet):
    size = {kind: sum(p.numel() for n, p in unet.named_parameters() if block_of(n) in blocks)
            for kind, blocks in zip(KINDS, OWNERS["paper"], strict=True)}
    whole = sum(p.numel() for p in unet.parameters())
    assert size["shape"] / whole < 0.35 and size["appearance"] / whole < 0.62


@pytest.mark.parametrize("find, known", [
    (lambda: find_preset("papr"), PRESETS),
    (lambda: find_recipe("escdiff"), RECIPES),
    (lambda: find_recipe("escdiff-shape", preset="papr"), PRESETS),
    (lambda: find_recipe("escdiff-shape", timesteps="late"), ("uniform", "layout", "material")),
    (lambda: find_recipe("escdiff-shape", form="loha"), ("full", "lora")),
    (lambda: Recipe(**{**vars(RECIPES["escdiff-shape"]), "kind": "style"}), (*KINDS, "concept")),
], ids=["preset", "recipe", "recipe's preset", "timesteps", "form", "kind"])  # fmt: skip
def test_unknown_names_list_the_known_ones(find, known):
    with pytest.raises(ESCDiffError, match="unknown") as caught:
        find()
    assert all(name in str(caught.value) for name in known)


@pytest.mark.parametrize("name", ["fine-decoder", "fine-decoder+"])
def test_a_preset_that_trains_nothing_for_a_kind_says_which_do(name, unet):
    with pytest.raises(
        ESCDiffError, match=f"{name!r} trains nothing for shape".replace("+", r"\+")
    ) as caught:
        find_preset(name).blocks("shape", unet.state_dict())
    assert "paper" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "field, value", [("steps", -1), ("steps", 2.5), ("batch_size", 0), ("views", 0), ("rank", 0)]
)
def test_senseless_numbers_are_refused(field, value):
    with pytest.raises(ESCDiffError, match=field):
        find_recipe("escdiff-shape", **{field: value})


def test_a_name_of_no_sd_unet_is_refused():
    with pytest.raises(ESCDiffError, match="unknown UNet part"):
        block_of("transformer_blocks.0.attn.to_q.weight")


def test_a_recipe_s_hash_changes_with_any_field():
    recipe = find_recipe("escdiff-shape")
    same, other = (find_recipe("escdiff-shape", steps=steps).hash() for steps in (None, 7))
    assert recipe.hash() == same != other
    assert len({r.hash() for r in RECIPES.values()}) == len(RECIPES)


def test_prompts_make_sense_when_nothing_is_known_of_the_rest():
    shape, appearance = RECIPES["escdiff-shape-paper"], RECIPES["escdiff-appearance-paper"]
    assert {shape.prompt(i, "*m", "", "") for i in range(9)} == {"a photo of a *m", "a *m"}
    assert "a *m with red appearance on a blue table" in {
        shape.prompt(i, "*m", "red", "on a blue table") for i in range(9)
    }
    assert "an object with *a appearance" in {appearance.prompt(i, "*a", "", "") for i in range(9)}


def test_names_come_without_what_is_heavy_behind_them():
    """ComfyUI reads recipes and presets when it starts; torch, diffusers and peft wait until a node runs."""
    code = ("import sys; import escdiff_core.learning.recipes, escdiff_core.unet.blocks\n"
            "print([m for m in ('torch', 'diffusers', 'peft', 'transformers', 'scipy') if m in sys.modules])")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_every_form_has_its_row():
    from escdiff_core.choices import FORMS
    from escdiff_core.learning import forms

    assert tuple(forms.FORMS) == FORMS
