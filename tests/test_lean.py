"""Training layers made lean, and half-precision weights beside fp32 masters: the same numbers, and the
caller's model untouched."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from method_zoo import disc, hash_of, quick, saved, tiny_model
from model_zoo import states as states_of

from escdiff_core.families.load import load_model
from escdiff_core.learning import lean_lora
from escdiff_core.learning.forms import train_lora
from escdiff_core.learning.half import Masters, halve, shared_copy
from escdiff_core.learning.lean import LAYERS, LEAN, LORAS, lean_text_encoder, make_lean
from escdiff_core.learning.learn import learn, prepare
from escdiff_core.mixing.mix import Mix
from escdiff_core.mixing.plan import Use
from escdiff_core.unet.copy import private_copy


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def gradients(unet, inputs):
    """The UNet's output and the gradients of its square by all that trains, x and context."""
    x, t, context = inputs
    x, context = (v.clone().requires_grad_() for v in (x, context))
    out = unet(x, t, context).sample
    named = {n: p for n, p in unet.named_parameters() if p.requires_grad} | {"x": x, "context": context}
    return out, dict(zip(named, torch.autograd.grad(out.square().mean(), list(named.values())), strict=True))


def whole(unet):
    return private_copy(unet, own=list(unet.state_dict()))


def loras(unet):
    """With a LoRA beside every linear and convolution, each half learned."""
    made = train_lora(unet, list(unet.state_dict()), 4, 0)
    generator = torch.Generator().manual_seed(2)
    for name, factor in made.parameters.items():
        if "lora_B" in name:
            factor.data = torch.randn(factor.shape, generator=generator) / 20
    return made.unet


@pytest.mark.parametrize("size", [(8, 8), (8, 16)])
@pytest.mark.parametrize(("form", "kinds", "large"), [
    (whole, LAYERS, 0), (loras, LAYERS | LORAS, lean_lora.LARGE), (loras, LAYERS | LORAS, 0)])
def test_lean_layers_compute_the_same_function_and_the_same_gradients(form, kinds, large, size, model,
                                                                      monkeypatch):
    monkeypatch.setattr(lean_lora, "LARGE", large)
    usual, lean = (form(model.unet) for _ in range(2))
    usual.set_attn_processor(AttnProcessor())
    make_lean(lean)
    there, original = ({type(m) for m in unet.modules()} for unet in (lean, model.unet))
    assert there >= set(kinds.values()) and not original & set(LEAN.values())
    assert not there & set(kinds), "some of its layers are as they were"
    generator = torch.Generator().manual_seed(0)
    inputs = (torch.randn(2, 4, *size, generator=generator), torch.tensor([10, 700]),
              torch.randn(2, 77, model.unet.config.cross_attention_dim, generator=generator))
    (a, wanted), (b, got) = gradients(usual, inputs), gradients(lean, inputs)
    torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-6)
    for name, gradient in wanted.items():
        torch.testing.assert_close(
            got[name], gradient, rtol=1e-3, atol=1e-3 * float(gradient.abs().max()) + 1e-9, msg=name
        )


def test_a_lean_text_encoder_says_the_same_and_is_another(model):
    lean = lean_text_encoder(model.text_encoder)
    assert lean.config is not model.text_encoder.config
    assert all(a is b for a, b in zip(lean.parameters(), model.text_encoder.parameters(), strict=True))
    vector = (
        torch.randn(1, model.unet.config.cross_attention_dim, generator=torch.Generator().manual_seed(1)) / 10
    )
    made = []
    for encoder in (model.text_encoder, lean):
        reading = replace(model, towers=(replace(model.towers[0], encoder=encoder),))
        token = vector.clone().requires_grad_()
        states = states_of(reading, ["a photo of a *m", "a *m on a red ground"], {"*m": token})
        made.append((states, torch.autograd.grad(states[:, ::3].square().sum(), token)[0]))
    for wanted, got in zip(*made, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3 * float(wanted.detach().abs().max()))


def test_halved_weights_leave_the_old_ones_alone_and_hand_back_their_gradients(model):
    layer = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    twin = shared_copy(layer)
    before = {n: p.detach().clone() for n, p in layer.named_parameters()}
    masters = Masters(halve(twin))
    [flat] = masters.flat.values()
    assert [p.dtype for p in twin.parameters()] == [torch.bfloat16] * 2 + [torch.float32] * 2
    twin[0](torch.ones(1, 3, dtype=torch.bfloat16)).sum().backward()
    masters.collect()
    assert flat.grad.tolist() == [1.0] * 8 and all(p.grad is None for p in twin[0].parameters())
    with torch.no_grad():
        flat += 1
    masters.refresh()
    assert torch.equal(twin[0].bias.float(), (before["0.bias"] + 1).bfloat16().float())
    assert torch.equal(layer[0].bias, before["0.bias"] + 1), (
        "a master that trains is a window of the flat one"
    )


@pytest.mark.parametrize(
    "name", ["escdiff-shape-full", "escdiff-shape", "ostaf", "unziplora"]
)
def test_a_run_in_bf16_goes_on_where_it_was_broken_off_and_leaves_the_model_alone(name, model, tmp_path):
    kind = None if name.startswith("escdiff") else "shape"
    changes = {"steps": 4, **({"lr_token": 1e-3} if name in ("ostaf", "unziplora") else {})}
    before = hash_of(model)

    def tuner():
        return prepare(model, [disc()], quick(name, kind=kind, **changes), precision="bf16")

    whole = saved(tuner().run(), tmp_path, "whole")
    broken = tuner()
    broken.step(), broken.step()
    resumed = tuner()
    resumed.restore(broken.state())
    assert saved(resumed.run(), tmp_path, "resumed") == whole
    assert hash_of(model) == before
    exact = prepare(model, [disc()], quick(name, kind=kind, **changes), precision="fp32")
    exact.run()
    assert broken.report.losses == pytest.approx(exact.report.losses[:2], rel=0.05)


@pytest.mark.parametrize("name", ["escdiff-shape-full", "escdiff-appearance", "ostaf", "neti"])
def test_a_model_in_half_precision_learns_as_one_in_fp32_to_rounding(name, model):
    """As it is copied out of a host that has it in half precision."""
    half = load_model(model.source, "cpu", torch.bfloat16)
    before = [t.clone() for t in half.unet.state_dict().values()]
    recipe = quick(name, kind=None if name.startswith("escdiff") else "shape")
    made, report = learn(half, [disc()], recipe, precision="bf16")
    exact = prepare(model, [disc()], recipe, precision="fp32")
    exact.run()
    assert report.losses == pytest.approx(exact.report.losses, rel=0.05)
    assert all(torch.equal(a, b) for a, b in zip(before, half.unet.state_dict().values(), strict=True))
    assert all(t.dtype != torch.bfloat16 and t.isfinite().all() for t in made.delta.values())
    pictures = [
        Mix(half, **{made.kind: use}).draw(f"a photo of a {made.token}", steps=2)
        for use in (Use(made), Use(made, 0.0))
    ]
    assert np.isfinite(pictures).all() and not np.array_equal(*pictures)
