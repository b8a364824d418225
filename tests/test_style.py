"""A style picture: every self-attention sees it as a last row, and nothing of it is drawn."""

import numpy as np
import pytest
import torch
from method_zoo import disc, hash_of, made_attribute, tiny_model

from escdiff_core.errors import ESCDiffError
from escdiff_core.mixing.mix import Mix
from escdiff_core.mixing.plan import Use
from escdiff_core.mixing.shared_attention import aligned_to_last, share_attention
from escdiff_core.model.text import encode_prompts
from escdiff_core.unet.copy import private_copy

DRAW = {"steps": 2, "size": 32, "seed": 3, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def shape(model):
    return made_attribute(model, "shape")


@torch.no_grad()
def test_a_style_is_a_last_row_that_every_self_attention_sees_and_nothing_of_it_is_drawn(model, shape):
    before = hash_of(model)
    red, pale = (disc((32, 32), colour=c) for c in (0.9, 0.2))
    plain, first, again, other = (
        Mix(model, Use(shape), style=style).draw("a photo of a *m", **DRAW)
        for style in (None, red, red, pale)
    )
    assert first.shape == plain.shape and np.array_equal(first, again)
    assert not np.array_equal(first, plain) and not np.array_equal(first, other)
    assert hash_of(model) == before
    with pytest.raises(ESCDiffError, match="style picture is 64 x 64 pixels and the drawing 32 x 32"):
        Mix(model, style=disc()).draw("a photo of a star", **DRAW)


@torch.no_grad()
def test_shared_attention_brings_queries_and_keys_to_the_reference_s_statistics(model):
    x = torch.randn(3, 50, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1.0, 3.0, 0.2])[:, None, None] + 4
    aligned = aligned_to_last(x)
    torch.testing.assert_close(aligned.mean(1), x[-1:].mean(1).expand(3, -1), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(aligned.std(1), x[-1:].std(1).expand(3, -1), atol=1e-3, rtol=1e-3)
    unet = private_copy(model.unet)
    share_attention(unet)
    context = encode_prompts(model, [""]).context.expand(2, -1, -1)
    rows, t = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1)), torch.tensor(10)
    same = rows[-1:].expand(2, -1, -1, -1)
    torch.testing.assert_close(
        unet(same, t, context).sample, model.unet(same, t, context).sample, atol=1e-4, rtol=1e-4
    )
    assert not torch.allclose(
        unet(rows, t, context).sample[0], model.unet(rows, t, context).sample[0], atol=1e-3
    )
