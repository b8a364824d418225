"""Routes: the rules of DESIGN §5, and that each cross-attention layer really sees the prompt it is routed
to."""

import pytest
import torch
from method_zoo import WIDTH, tiny_model

from escdiff_core.unet.blocks import KINDS, PRESETS, block_of
from escdiff_core.unet.copy import private_copy
from escdiff_core.unet.route import Route, derive_route, install, without_tokens


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def inputs(slots):
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([10, 900]),
            [torch.randn(2, 77, WIDTH, generator=generator) for _ in range(slots)])


CASES = {  # owners, middle: expected slots by block, contested
    "one each": ([("d", "mid_block"), ("u",)], None, {"u": 1}, []),
    "none: the main prompt": ([("d",), ("u",)], None, {"u": 1}, []),
    "several: the smaller set": ([("d", "x", "y"), ("x", "u")], None, {"x": 1, "u": 1}, ["x"]),
    "several, equal sets: the main prompt": ([("d", "x"), ("x", "u")], None, {"u": 1}, ["x"]),
    "three, the smallest first": ([("x", "a", "b"), ("x", "c"), ("x",)], None, {"c": 1, "x": 2}, ["x"]),
    "nobody owns the main slot": ([(), ("u",)], 0, {"u": 1}, []),
    "middle given to the rider": ([("d",), ("u",)], 1, {"u": 1, "mid_block": 1}, []),
    "middle taken from its trainer": ([("d",), ("u", "mid_block")], 0, {"u": 1}, []),
    "middle by the rule": ([("d",), ("u", "mid_block")], None, {"u": 1, "mid_block": 1}, []),
    "a settled middle is not contested": ([("mid_block", "d"), ("mid_block",)], 0, {}, []),
    "an unsettled one is": ([("mid_block", "d"), ("mid_block",)], None, {"mid_block": 1}, ["mid_block"]),
    "middle to a slot of nobody": ([("d", "mid_block"), ()], 1, {"mid_block": 1}, []),
}


@pytest.mark.parametrize("case", CASES)
def test_rules(case):
    owners, middle, layers, contested = CASES[case]
    assert derive_route(owners, middle) == (Route(len(owners), layers), contested)


@torch.no_grad()
@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_prompt_in_every_slot_is_the_plain_unet(model, preset):
    x, t, (context,) = inputs(1)
    blocks = [
        PRESETS[preset].blocks(k, model.unet.state_dict()) if PRESETS[preset].patterns(k) else ()
        for k in KINDS
    ]
    copy = private_copy(model.unet)
    install(copy, derive_route(blocks)[0])
    plain = model.unet(x, t, context).sample
    assert (copy(x, t, torch.cat([context, context], dim=1)).sample - plain).abs().max() <= 1e-6


@torch.no_grad()
@pytest.mark.parametrize(
    "preset, middle", [("paper", 0), ("paper", 1), ("resolution", 0), ("fine-decoder", None)]
)
def test_exactly_the_named_layers_see_the_other_prompt(model, preset, middle):
    x, t, contexts = inputs(3)
    appearance = PRESETS[preset].blocks("appearance", model.unet.state_dict())
    copy = private_copy(model.unet)
    install(copy, derive_route([(), appearance, ()], middle)[0])
    seen = {}
    for name, module in copy.named_modules():
        if name.endswith("attn2.to_k"):
            module.register_forward_hook(lambda _m, args, _o, name=name: seen.update({name: args[0]}))
    copy(x, t, torch.cat(contexts, dim=1))
    assert len(seen) == 16
    for name, states in seen.items():
        block = block_of(name)
        owned = middle == 1 if block == "mid_block" else block in appearance
        assert torch.equal(states, contexts[1 if owned else 0]), name


@torch.no_grad()
def test_the_other_prompt_matters_where_it_is_routed_and_only_there(model):
    x, t, (main, rider, other) = inputs(3)
    copy = private_copy(model.unet)
    install(copy, derive_route([(), ("up_blocks.3.2",)])[0])
    first = copy(x, t, torch.cat([main, rider], dim=1)).sample
    assert not torch.equal(first, copy(x, t, torch.cat([main, other], dim=1)).sample)
    install(copy, derive_route([("conv_in",), ("conv_out",)])[0])        # blocks without cross-attention
    assert torch.equal(
        copy(x, t, torch.cat([main, rider], dim=1)).sample, copy(x, t, torch.cat([main, other], dim=1)).sample
    )


def test_one_slot_leaves_the_unet_as_it_is_and_a_new_route_replaces_the_old(model):
    copy = private_copy(model.unet)
    plain = dict(copy.attn_processors)
    install(copy, derive_route([("up_blocks.1.0",)])[0])
    assert copy.attn_processors == plain
    for _ in range(2):
        install(copy, derive_route([(), ("up_blocks.1.0",)])[0])
    routed = copy.attn_processors["up_blocks.1.attentions.0.transformer_blocks.0.attn2.processor"]
    assert routed.slot == 1 and not hasattr(routed.usual, "usual")


@pytest.mark.parametrize("prompt, plain", [
    ("a photo of *m", "a photo of object"),
    ("a *m, and *m.", "a object, and object."),
    ("a *moon and of*m", "a *moon and of object"),
    ("  no   token ", "no token"),
])  # fmt: skip
def test_tokens_become_plain_words_only_where_they_stand_alone(prompt, plain):
    assert without_tokens(prompt, {"*m": "object"}) == plain
