"""UnZipLoRA's two LoRAs of a layer: what each reads, which columns it is given, and which one is kept."""

import numpy as np
import pytest
import torch
from method_zoo import disc, tiny_model
from model_zoo import states

from escdiff_core.learning import unzip
from escdiff_core.learning.learn import prepare
from escdiff_core.learning.recipes import find_recipe
from escdiff_core.mixing.mix import Mix
from escdiff_core.mixing.plan import Use

QUICK = {
    "steps": 2, "batch_size": 2, "views": 1, "warmup_steps": 0, "rank": 2, "lr_weights": 1e-2, "lr_token": 0.1
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def test_two_loras_read_a_prompt_each_and_share_out_the_columns(model, monkeypatch):
    monkeypatch.setattr(unzip, "OPENINGS", (range(1), range(2, 3)))
    tuner = prepare(model, [disc()], find_recipe("unziplora", "appearance", **{**QUICK, "steps": 4}),
                    describe="on a red table", class_word="disc", precision="fp32")
    layers = {n: m for n, m in tuner.unet.named_modules() if isinstance(m, unzip.TwoLoRA)}
    assert len(layers) == 16 * 8, "four linears of both attentions of all 16 layers"
    drawn = tuner.draws(np.random.default_rng(0), 1)
    with torch.no_grad():
        packed = tuner.texts(
            np.random.default_rng(0), drawn.prompts, {"*a": tuner.vectors()}, drawn.t, drawn.alone
        )
    whole, alone, rest = packed.context.chunk(3, dim=1)
    assert "disc" in drawn.prompts[0] and "red table" in drawn.prompts[0]
    assert "*a" in drawn.alone[0] and "disc" not in drawn.alone[0] and "table" not in drawn.alone[0]
    for given, text in ((whole, drawn.prompts[0]), (alone, drawn.alone[0]),
                        (rest, drawn.prompts[0].replace("*a", "plain"))):
        torch.testing.assert_close(given, states(model, [text], {"*a": tuner.vectors()["clip_l"].detach()}))
    shares = []
    for step in range(4):
        tuner.step()
        opened = {bool(m.mask.all()) for m in layers.values()}
        assert opened == {step + 1 == 2}, "all columns train while they are scored"
        shares.append({n: m.chosen.clone() for n, m in layers.items()})
    for name, layer in layers.items():
        tenth = max(round(0.1 * layer.base.out_features), 1)
        for step, count in ((0, 1), (1, 1), (2, 2), (3, 2)):
            chosen = shares[step][name]
            assert (chosen.sum(1) == count * tenth).all() and chosen.sum(0).max() == 1, "no column is both's"


@torch.no_grad()
def test_base_and_two_loras_read_their_own_part_of_the_text():
    torch.manual_seed(0)
    base = torch.nn.Linear(6, 8)
    layer = unzip.TwoLoRA(base, 2, reads=True)
    for up in layer.up:
        torch.nn.init.normal_(up)
    layer.mask[1, :3] = 0
    whole, alone, rest = torch.randn(3, 1, 5, 6)
    added = [part @ (up @ down).T for part, up, down in zip((alone, rest), layer.up, layer.down, strict=True)]
    added[1][..., :3] = 0
    torch.testing.assert_close(
        layer(torch.cat([whole, alone, rest], dim=1)), base(whole) + added[0] + added[1]
    )


def test_columns_go_to_those_on_which_the_loss_depends_most(monkeypatch):
    monkeypatch.setattr(unzip, "OPENINGS", (range(2),))
    layer = unzip.TwoLoRA(torch.nn.Linear(6, 10), 2, reads=False)
    for up, best in zip(layer.up, ({2: 3.0, 5: 1.0}, {2: 9.0, 7: -1.0}), strict=True):
        torch.nn.init.ones_(up)
        up.grad = torch.zeros_like(up)
        for column, slope in best.items():
            up.grad[column, 0] = slope
    for step in range(2):
        assert layer.mask.all()
        layer.after(step)
    assert layer.chosen[unzip.OWN].nonzero().tolist() == [[2]], "the kept one's best"
    assert layer.chosen[unzip.OTHER].nonzero().tolist() == [[7]], "the other's best of what is left"
    assert torch.equal(layer.mask, layer.chosen) and not layer.score.any()


def test_the_score_of_a_column_is_the_sum_of_weight_times_gradient(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(unzip, "OPENINGS", (range(2),))
    layer = unzip.TwoLoRA(torch.nn.Linear(6, 8), 2, reads=False)
    changes = []
    for up, down in zip(layer.up, layer.down, strict=True):
        torch.nn.init.normal_(up)
        changes.append(up @ down)
        changes[-1].retain_grad()
    sum((change ** 3).sum() for change in changes).backward()
    layer.after(0)
    torch.testing.assert_close(layer.score, torch.stack([(c * c.grad).sum(1) for c in changes]).detach())


@torch.no_grad()
def test_of_two_loras_the_first_is_kept(model, monkeypatch):
    monkeypatch.setattr(unzip, "OPENINGS", (range(1),))
    with torch.enable_grad():
        tuner = prepare(model, [disc()], find_recipe("unziplora", "shape", **QUICK),
                        describe="on a red table", precision="fp32")
        made = tuner.run()
    assert made.form == "lora"
    x, t, context = torch.ones(1, 4, 8, 8), torch.tensor([5]), states(model, ["a star"])
    with tuner.optimizer.averaged():
        others = [m.up[unzip.OTHER] for m in tuner.unet.modules() if isinstance(m, unzip.TwoLoRA)]
        assert sum(bool(up.any()) for up in others) > len(others) / 2, "the other one learned as well"
        for up in others:
            up.zero_()
        kept = tuner.unet(x, t, context.repeat(1, 3, 1)).sample
    merged = Mix(model, shape=Use(made)).variant(0.0).unet(x, t, context).sample
    base = model.unet(x, t, context).sample
    assert (merged - kept).abs().max() < 0.01 * (kept - base).abs().max()
