"""The private copy: the function of the UNet it was made of, cut in two exactly, and no way back to the
original."""

import copy as copying

import pytest
import torch
from method_zoo import WIDTH, hash_of, tiny_model

from escdiff_core.model.conditioning import Conditioning
from escdiff_core.unet.blocks import block_of
from escdiff_core.unet.copy import private_copy, tensors_of
from escdiff_core.unet.halves import decode, encode


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def inputs(height, width, batch=2):
    generator = torch.Generator().manual_seed(height * 100 + width)
    return (torch.randn(batch, 4, height, width, generator=generator), torch.tensor([10, 900][:batch]),
            torch.randn(batch, 77, WIDTH, generator=generator))


@pytest.mark.parametrize("size", [(8, 8), (16, 24), (8, 32), (12, 20), (9, 13)])
@torch.no_grad()
def test_encode_then_decode_is_the_unet_s_forward_exactly(model, size):
    x, t, context = inputs(*size)
    features = encode(model.unet, x, t, Conditioning(context))
    assert torch.equal(decode(model.unet, features, Conditioning(context)), model.unet(x, t, context).sample)
    assert len(features.skips) == 12 and [s.shape[2] for s in features.skips] == sorted(
        (s.shape[2] for s in features.skips), reverse=True)


@torch.no_grad()
def test_picked_rows_decode_as_they_would_alone(model):
    x, t, context = inputs(8, 8)
    told = Conditioning(context)
    features = encode(model.unet, x, t, told)
    one = decode(model.unet, features.pick(torch.tensor([1])), told[1:])
    torch.testing.assert_close(one, decode(model.unet, features, told)[1:], rtol=1e-5, atol=1e-6)


def test_without_grad_the_encoder_keeps_no_graph(model):
    x, t, context = inputs(8, 8)
    context.requires_grad_(True)
    told = Conditioning(context)
    assert encode(model.unet, x, t, told).sample.requires_grad
    features = encode(model.unet, x, t, told, grad=False)
    assert not any(f.requires_grad for f in (features.sample, features.emb, *features.skips))
    assert decode(model.unet, features, told).requires_grad


def test_training_the_copy_leaves_the_model_bit_equal(model):
    before = hash_of(model)
    own = tensors_of(model.unet, ["up_blocks.2.1", "conv_out"])
    copy = private_copy(model.unet, own=own)
    assert [n for n, p in copy.named_parameters() if p.requires_grad] == own
    x, t, context = inputs(8, 8)
    assert torch.equal(copy(x, t, context).sample, model.unet(x, t, context).sample)
    optimizer = torch.optim.SGD([p for p in copy.parameters() if p.requires_grad], lr=0.1)
    copy(x, t, context).sample.square().mean().backward()
    optimizer.step()
    originals = model.unet.state_dict()
    for name, tensor in copy.state_dict().items():
        assert torch.equal(tensor, originals[name]) == (name not in own), name
        assert (tensor.data_ptr() == originals[name].data_ptr()) == (name not in own), (
            "frozen tensors are shared"
        )
    assert hash_of(model) == before


def test_changed_tensors_are_the_copy_s_alone(model):
    before = hash_of(model)
    copy = private_copy(model.unet, changed={"conv_out.bias": model.unet.conv_out.bias + 1})
    x, t, context = inputs(8, 8)
    torch.testing.assert_close(copy(x, t, context).sample, model.unet(x, t, context).sample + 1)
    assert hash_of(model) == before and not any(p.requires_grad for p in copy.parameters())


def test_what_trains_is_fp32_also_in_a_half_model(model):
    half = copying.deepcopy(model.unet).half()
    copy = private_copy(half, own=["conv_in.weight"])
    assert copy.conv_in.weight.dtype is torch.float32 and copy.conv_in.bias.dtype is torch.float16


def test_tensors_of_blocks(model):
    names = tensors_of(model.unet, ["mid_block", "conv_in"])
    assert names and {block_of(n) for n in names} == {"mid_block", "conv_in"}
