"""Weights that both attributes changed: each output channel is one's alone, or both changes add; alone all of
it counts."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from method_zoo import made_attribute, tiny_model

from escdiff_core.attribute.tensors import differences
from escdiff_core.errors import ESCDiffError
from escdiff_core.mixing.delta import named_differences, own_channels
from escdiff_core.mixing.mix import Mix
from escdiff_core.mixing.plan import Use


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def norms_of(difference):
    return difference.flatten(1).norm(dim=1) if difference.ndim > 1 else difference.abs()      # (out,)


def test_where_both_trained_each_output_channel_is_one_s_alone(model):
    made = (
        made_attribute(model, "shape", "whole"),
        made_attribute(model, "appearance", "fine-decoder", scale=0.002, seed=4),
    )
    mixed = Mix(model, Use(made[0], 0.5), Use(made[1])).variant(0.0).unet.state_dict()
    base, (shape, appearance) = (
        model.unet.state_dict(),
        (dict(named_differences(a, model.unet)) for a in made),
    )
    both = shape.keys() & appearance.keys()
    assert len(both) == len(appearance) > 20
    for name in shape:
        expected = base[name] + 0.5 * shape[name]
        if name in both:
            layer = name.replace(".bias", ".weight")                    # a bias goes with its weight
            claims = [norms_of(d[layer]) / norms_of(d[layer]).mean() for d in (shape, appearance)]
            theirs = (claims[1] > claims[0]).view(-1, *[1] * (shape[name].ndim - 1))
            expected = torch.where(theirs, base[name] + appearance[name], expected)
        torch.testing.assert_close(mixed[name], expected, msg=name)
    share = np.mean(
        [
            float(torch.equal(mixed[n][i], base[n][i] + appearance[n][i]))
            for n in both
            for i in range(len(base[n]))
        ]
    )
    added = Mix(model, Use(made[0], 0.5), Use(made[1]), overlap="add").variant(0.0).unet.conv_out.bias
    torch.testing.assert_close(
        added, base["conv_out.bias"] + 0.5 * shape["conv_out.bias"] + appearance["conv_out.bias"]
    )
    assert 0.4 < share < 0.6, "neither half its strength nor ten times smaller changes let one keep fewer"


@pytest.mark.parametrize("lora", [(True, True), (False, True), (True, False)])
def test_channels_of_a_lora_are_shared_as_those_of_whole_weights(model, lora):
    made = [made_attribute(model, kind, "whole", seed=seed, lora=form)
            for kind, seed, form in zip(("shape", "appearance"), (3, 4), lora, strict=True)]
    whole = [replace(a, delta=dict(differences(a.delta))) for a in made]
    (shape, appearance), expected = (
        [dict(differences(a.delta)) for a in own_channels(group)] for group in (made, whole)
    )
    both = shape.keys() & appearance.keys()
    assert both and all(torch.allclose(mine[n], their[n], atol=1e-7) for mine, their in
                        zip((shape, appearance), expected, strict=True) for n in mine)
    assert not any(((norms_of(shape[n]) > 0) & (norms_of(appearance[n]) > 0)).any() for n in both), (
        "no channel is both's"
    )
    left = sum(float(d[n].abs().sum()) for d in (shape, appearance) for n in both)
    assert left > 0.5 * sum(float(t.abs().sum()) for a in whole for n, t in a.delta.items() if n in both) > 0


def test_what_shares_no_tensor_acts_whole(model):
    shape, appearance = (made_attribute(model, kind) for kind in ("shape", "appearance"))
    owned = own_channels([shape, appearance])
    assert owned[0] is shape and owned[1] is appearance
    whole = made_attribute(model, "shape", "whole")
    assert own_channels([whole]) == [whole]
    left = own_channels([whole, appearance])[0].delta
    assert all(left[n] is t for n, t in whole.delta.items() if n not in appearance.delta), (
        "nothing is copied for nothing"
    )
    nothing = replace(whole, delta={n: torch.zeros_like(t) for n, t in whole.delta.items()})
    assert all(
        torch.equal(t, appearance.delta[n]) for n, t in own_channels([nothing, appearance])[1].delta.items()
    )


def test_channels_are_shared_only_while_both_act(model):
    shape, appearance = (
        made_attribute(model, kind, "whole", seed=i) for i, kind in enumerate(("shape", "appearance"))
    )
    mix, alone = Mix(model, Use(shape), Use(appearance, start=0.5)), Mix(model, Use(shape))
    early, late = (mix.variant(p).unet.state_dict() for p in (0.2, 0.8))
    own = alone.variant(0.2).unet.state_dict()
    assert all(torch.equal(t, own[n]) for n, t in early.items())
    assert not torch.equal(late["conv_out.weight"], own["conv_out.weight"])


def test_a_delta_of_another_size_is_refused_and_not_shared(model):
    shape = made_attribute(model, "shape")
    name = next(n for n, t in shape.delta.items() if t.ndim == 2)
    strange = replace(shape, kind="appearance", token="*a", delta={**shape.delta, name: torch.ones(3, 5)})
    with pytest.raises(ESCDiffError, match="which this model does not have"):
        Mix(model, Use(shape), Use(strange)).variant(0.0)


def test_the_log_says_what_both_trained(model, caplog):
    shape = made_attribute(model, "shape", "whole")
    appearance = made_attribute(model, "appearance", "fine-decoder")

    def said(*uses, **how):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            variant = Mix(model, *uses, **how).variant(0.0)
        return caplog.text, variant.route

    text, route = said(Use(shape, 0.5), Use(appearance))
    assert "both attributes trained conv_out, up_blocks.2.0" in text and "mid_block" not in text
    assert f"both attributes changed {len(appearance.delta)} tensors: each output channel" in text
    assert route.layers["up_blocks.3.1"] == 1 and route.slot("up_blocks.1.attentions.0.x") == 0
    assert said(Use(made_attribute(model, "shape")), Use(appearance))[0] == ""
    everywhere = [Use(replace(made, reach="all")) for made in (shape, appearance)]
    text, route = said(*everywhere, overlap="add")
    assert "both changes add" in text and "trained" not in text and route.slots == 1, (
        "every block reads both tokens"
    )
