"""SD 2.x and SDXL in real ComfyUIs: checkpoints in their layouts with random weights, through the stock
loader and nodes.

The UNets are narrow, with the depths of SD 2.x (fewer levels) and of Segmind Vega; the text encoders have few
layers.
"""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.newest]
MODELS = "family_models"          # the checkpoints of the probe's base directory
TOWERS = {"sd2": {"clip_h": [1, 1024]}, "sdxl": {"clip_g": [1, 1280], "clip_l": [1, 768]}}


@pytest.fixture(params=TOWERS)
def seen(request, found) -> dict:
    """What the probe saw of one family."""
    assert "failed" not in found[request.param], found[request.param]["failed"]
    return {"name": request.param, **found[request.param]}


def test_the_stock_loader_takes_it_for_the_family(seen):
    assert (seen["family"], seen["class"]) == {"sd2": ("sd2", "SD20"), "sdxl": ("sdxl", "Segmind_Vega")}[
        seen["name"]
    ]


@pytest.mark.parametrize("skip", [None, -3])
def test_the_private_copy_reads_prompts_as_the_host_does(seen, skip):
    assert seen[f"text {skip}"] <= 1e-3, "the states are up to 10 and more"
    assert seen.get(f"pooled {skip}", 0.0) <= 1e-3
    assert ("pooled None" in seen) == (seen["name"] == "sdxl")


@pytest.mark.parametrize("what", ["unet", "lora"])
def test_the_private_copy_computes_what_the_host_computes(seen, what):
    assert seen[what] <= 1e-4
    assert seen["lora acts"] > 1e-3


@pytest.mark.parametrize("kind", ["shape", "appearance"])
def test_the_node_learns_with_the_family_s_recipe_and_keeps_every_tower(seen, kind):
    assert seen[kind] == [f"escdiff-{kind}-sd", TOWERS[seen["name"]], "lora"]


@pytest.mark.parametrize("case", ["own prompts", "start and end"])
def test_mixing_on_the_host_is_the_headless_mix(seen, case):
    assert seen[f"mix {case}"] <= 1e-4
    assert seen["mix acts"] > 1e-2 and seen["strength 0 is stock"]


def test_a_control_net_acts_on_a_mix_and_as_always_without_attributes(seen):
    without_is_stock, finite, acts = seen["control"]
    assert without_is_stock and finite and acts > 1e-3


@pytest.mark.parametrize("part", ["area", "mask"])
def test_a_mix_may_act_in_a_part_of_the_picture(seen, part):
    inside, outside = seen[part]
    assert inside > 1e-3 > outside


@pytest.mark.parametrize("form", ["full", "lora"])
def test_exports_draw_the_same_through_the_stock_loaders_with_no_key_left_over(seen, form):
    if form == "lora" and seen["name"] == "sd2":
        pytest.skip("as SD 1.x: the names are the same")
    assert seen[f"export {form}"] <= 5e-3, "fp16 factors, and text encoders that compute in halves"
    taken, patches, given = seen[f"export {form} keys"]
    assert taken == patches == given > 0


def test_a_lora_acts_before_the_mix_and_behind_it_alike(seen):
    same, shows = seen["LoRA before and behind"]
    assert same <= 1e-4 < 1e-3 < shows
    assert seen["LoRA behind takes it back"] <= 5e-3
