"""The shipped pocket model: it loads through the common path, draws what it is asked for, and carries the
whole story."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from escdiff_core.attribute import Attribute
from escdiff_core.bench import protocol
from escdiff_core.cli import main
from escdiff_core.families.load import load_model
from escdiff_core.learning.encoders import choose_encoder, choose_filter
from escdiff_core.learning.learn import prepare
from escdiff_core.learning.recipes import DEFAULTS, RECIPES, find_recipe
from escdiff_core.metrics.prompt_check import check
from escdiff_core.model.autoencoder import image_to_latents, latents_to_images
from escdiff_core.model.sample import Drawing, sample
from escdiff_core.worlds.pocket import config
from escdiff_core.worlds.pocket.captions import full_caption
from escdiff_core.worlds.pocket.loop import Loop, MasterWeights
from escdiff_core.worlds.pocket.world import render, reserved_spec


@pytest.fixture(scope="module")
def pocket():
    return load_model("pocket", "cpu")


def test_the_files_are_small_and_of_one_make(pocket):
    assert config.CHECKPOINT.stat().st_size <= 48e6
    assert config.VISION_CHECKPOINT.stat().st_size <= 8e6
    assert pocket.native_size == 128 and pocket.schedule.beta_end == 0.03
    assert float(pocket.schedule.alphas_cumprod()[-1]) < 1e-5, "the last step must hold no picture"
    crossing = [n for n in pocket.unet.attn_processors if n.endswith("attn2.processor")]
    assert [sum(n.startswith(p) for n in crossing) for p in ("down", "mid", "up")] == [6, 1, 9]


@pytest.mark.parametrize("file", [config.CHECKPOINT, config.VISION_CHECKPOINT, config.FILTERS])
def test_its_weights_pack_well(file):
    weights = load_file(file).values()
    assert all(not (w.view(torch.int16) & 7).any() for w in weights if w.dtype is torch.float16), (
        "pack them with pack.round_off"
    )


def test_it_draws_what_is_asked_for(pocket):
    """Floors about three standard deviations below what 256 prompts gave (benchmarks/pocket_model.md)."""
    specs = [reserved_spec(11, i) for i in range(24)]
    images = sample(pocket, [full_caption(s) for s in specs], how=Drawing(12, config.GUIDANCE))
    checks = [check(image, spec) for image, spec in zip(images, specs, strict=True)]
    right = {
        part: sum(getattr(c, part) for c in checks) for part in ("background", "shape", "colours", "pattern")
    }
    assert right["background"] >= 23 and right["shape"] >= 22 and right["colours"] >= 16 and right[
        "pattern"] >= 11, right


def test_the_prompt_decides_and_not_the_noise(pocket):
    spec = reserved_spec(11, 3)
    images = sample(
        pocket,
        ["a photo of a red star on a white background", "a photo of a red star on a black background"],
        how=Drawing(12, seed=5),
    )
    corners = images[:, :8, :8].mean((1, 2, 3))
    assert corners[0] > 0.8 and corners[1] < 0.3, (corners, spec)


def test_the_autoencoder_keeps_unseen_pictures(pocket):
    pictures = np.stack([render(reserved_spec(12, i)).image for i in range(16)])
    error = ((latents_to_images(pocket, image_to_latents(pocket, pictures)) - pictures) ** 2).mean()
    assert -10 * np.log10(error) >= 24.0


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """What the demo writes; it learns from few views and small batches, and draws in few steps: most of its
    time otherwise."""
    folder = tmp_path_factory.mktemp("story")
    with pytest.MonkeyPatch.context() as patch:
        for name in DEFAULTS.values():
            patch.setitem(RECIPES, name, replace(RECIPES[name], views=4, batch_size=4))
        for kind, draw in protocol.DRAW.items():
            patch.setitem(protocol.DRAW, kind, partial(draw, steps=4))
        patch.setattr(protocol, "draw_mix", partial(protocol.draw_mix, steps=4))
        patch.setattr("escdiff_core.model.sample.Drawing", partial(Drawing, 4))
        assert main(["demo", "--out", str(folder / "demo"), "--steps", "4", "--device", "cpu"]) == 0
    return folder


@pytest.mark.slow
def test_the_demo_writes_pictures_and_figures(story):
    report = json.loads((story / "demo" / "report.json").read_text())
    assert set(report["leak_matrix"]) == {"shape attribute", "appearance attribute"}
    assert all(0 <= v <= 1 for row in report["leak_matrix"].values() for v in row.values())
    assert set(report["scores"]) == {"shape", "appearance", "mix", "control"}
    assert report["seconds"]["learn_shape"] > 0
    assert 0 < report["seconds"]["eight_pictures_30_steps"] < 60
    for name in ("sheet.png", "prompts.png", "shape_reference.png"):
        assert Image.open(story / "demo" / name).size[0] > 100


@pytest.mark.slow
def test_mix_writes_pictures_and_a_report_and_nothing_else(story, capsys):
    files = [str(story / "demo" / f"{kind}.safetensors") for kind in ("shape", "appearance")]
    out = story / "mixed"
    assert main([
        "mix", "--shape", files[0], "--appearance", files[1], "--prompt",
        "a *m with *a appearance on a red background", "--count", "2", "--sampling-steps", "4", "--out",
        str(out), "--device", "cpu"
    ]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["000.png", "001.png", "report.json"]
    assert Image.open(out / "000.png").size == (128, 128)
    assert main(["info", files[0]]) == 0
    assert "shape" in capsys.readouterr().out


@pytest.mark.slow
def test_learn_from_a_file_finds_the_subject(story, capsys):
    out = story / "cat.safetensors"
    assert main([
        "learn", "--kind", "appearance", "--out",
        str(out), "--reference",
        str(story / "demo" / "appearance_reference.png"), "--steps", "2", "--token", "*look", "--device",
        "cpu"
    ]) == 0
    attribute = Attribute.load(out)
    assert attribute.kind == "appearance" and attribute.token == "*look" and attribute.steps == 2
    assert main(["export", str(out), "--format", "embedding", "--out", str(story / "look.safetensors")]) == 0
    assert main(["export", str(out), "--format", "lora", "--out", str(story / "look_lora.safetensors")]) == 0


def test_a_stage_of_training_resumes_where_it_was(tmp_path):
    def loop(minutes):
        torch.manual_seed(0)
        module = nn.Linear(3, 1)
        made = Loop("toy", tmp_path, minutes, 1, MasterWeights(module, lr=1e-2), warmup_steps=1)
        x = torch.eye(3)

        def step(_index):
            loss = (module(x) - 1).square().mean()
            loss.backward()
            return {"loss": loss}

        return made, step, module

    first, step, module = loop(0.003)
    assert not first.resume()
    first.run(step)
    second, step, again = loop(0.006)
    assert second.resume() and second.steps == first.steps and 0.4 < second.progress < 0.7
    assert torch.equal(again.weight, module.weight)
    second.run(step)
    assert second.steps > first.steps and second.log[-1]["loss"] < first.log[0]["loss"]


def test_filters_come_with_the_model_and_were_trained_on_it(pocket):
    encoder = choose_encoder("auto", pocket)
    subject = protocol.as_reference(protocol.shape_references(1)[0])
    for kind in ("shape", "appearance"):
        network = choose_filter(None, find_recipe(f"escdiff-{kind}"), pocket, encoder)
        assert network is not None, "the shipped filters belong to another model: train them again"
        tuner = prepare(
            pocket, [subject], find_recipe(f"escdiff-{kind}", views=1), encoder=encoder, network=network
        )
        moved = (tuner.vectors()["clip_l"][0] - tuner.start.words["clip_l"]).norm() / tuner.start.words[
            "clip_l"
        ].norm()
        assert 0.01 < moved < 1.5 and not tuner.start.trains, (
            "a token starts off its word, and nothing of the filter trains"
        )
