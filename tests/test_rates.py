"""Relative rates: one recipe learns the same on a model of any width."""

import sys
from dataclasses import replace

import pytest
import torch
from hosts import ROOT
from method_zoo import disc, quick

from escdiff_core.learning import rates
from escdiff_core.learning.drift import drift_of
from escdiff_core.learning.learn import prepare

sys.path.insert(0, str(ROOT / "benchmarks" / "widths"))
from widen import widened

STEPS = 4


def losses(model, **changes) -> list[float]:
    """Of each step, with no filter: its features have the model's widths."""
    recipe = replace(quick("escdiff-shape-full", steps=STEPS, warmup_steps=0), filter_scale=0.0, **changes)
    tuner = prepare(model, [disc()], recipe, precision="fp32")
    tuner.run()
    return tuner.report.losses


def outputs(model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    width = model.unet.config.cross_attention_dim
    latents, states = (torch.randn(shape, generator=generator) for shape in ((2, 4, 8, 8), (2, 77, width)))
    with torch.no_grad():
        return model.unet(latents, torch.tensor(321), encoder_hidden_states=states).sample


@pytest.mark.parametrize("factor", [2, 4])
def test_a_widened_model_is_the_same_function(model, factor):
    wide = widened(model, factor)
    assert wide.unet.conv_in.weight.shape[0] == factor * model.unet.conv_in.weight.shape[0]
    torch.testing.assert_close(outputs(wide), outputs(model), rtol=1e-3, atol=1e-4)


RELATIVE = {"relative": True, "lr_weights": 0.02, "lr_token": 0.2}
ABSOLUTE = {"relative": False, "lr_weights": 3e-3, "lr_token": 5e-3}


@pytest.mark.parametrize("factor", [2, 4])
def test_at_a_relative_rate_a_wider_model_learns_the_same(model, factor):
    assert losses(widened(model, factor), **RELATIVE) == pytest.approx(losses(model, **RELATIVE), rel=0.01)


def test_at_an_absolute_rate_it_does_not(model):
    narrow, wide = (losses(m, **ABSOLUTE) for m in (model, widened(model, 4)))
    assert max(abs(a / b - 1) for a, b in zip(wide, narrow, strict=True)) > 0.2


def test_a_wider_model_s_lora_learns_as_fast(model):
    """Not the same to 1 %: its random start is another one."""
    changes = RELATIVE | {"form": "lora", "rank": 4, "lr_weights": 0.1}
    assert losses(widened(model, 4), **changes) == pytest.approx(losses(model, **changes), rel=0.08)


def test_what_a_rate_is_a_share_of():
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    exact = torch.linalg.matrix_norm(weight.flatten(1), 2)
    assert rates.largest_singular_value(weight) == pytest.approx(float(exact), rel=0.1)
    twice = weight.repeat_interleave(2, 0).repeat_interleave(2, 1) / 2       # as twice as wide a model has it
    assert rates.whole(twice) == pytest.approx(rates.whole(weight) / 2, rel=0.2)
    (down, up), (wide_down, wide_up) = (rates.low_rank(w, 4) for w in (weight, twice))
    assert wide_down == pytest.approx(down / 2, rel=0.2) and wide_up == pytest.approx(up, rel=0.2)
    assert rates.low_rank(weight, 8)[1] == pytest.approx(up / 2, rel=0.2)
    assert rates.whole(torch.full((5,), 0.25)) == pytest.approx(0.25, rel=0.1)
    assert rates.whole(torch.zeros(16)) == rates.whole(torch.zeros(4, 4)) == 0.25


@pytest.mark.parametrize("name", ["escdiff-shape", "escdiff-shape-full", "unziplora", "ostaf"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_weight_trains_at_its_own_rate(name, precision, model):
    recipe = quick(name, kind="shape", relative=True, lr_weights=0.02)
    tuner = prepare(model, [disc()], recipe, precision=precision)
    scales, of_form = tuner.trained.scales(), {}
    for group in tuner.optimizer.adamw.param_groups:
        of_form.setdefault(group["peak"], 0)
        of_form[group["peak"]] += sum(p.numel() for p in group["params"])
    expected = {}
    for weight, parameter in tuner.weights.items():
        rate = recipe.lr_weights * scales.get(weight, 1.0)
        expected[rate] = expected.get(rate, 0) + parameter.numel()
    assert len(expected) > 1 or name == "ostaf"
    for rate, count in expected.items():
        assert of_form[rate] >= count


def test_what_moved_the_model_s_other_pictures_is_told(model):
    still = prepare(model, [disc()], quick("escdiff-shape-full", steps=0), precision="fp32")
    assert drift_of(still) == pytest.approx(0, abs=1e-4)
    moved = []
    for rate in (0.005, 0.02, 0.2):
        recipe = quick("escdiff-shape-full", steps=3, lr_weights=rate)
        tuner = prepare(model, [disc()], recipe, precision="fp32")
        tuner.run()
        moved.append(drift_of(tuner))
    assert 0 < moved[0] < moved[1] < moved[2]
