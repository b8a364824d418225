"""Prompt encoding: the plain path, learned vectors anywhere in a prompt, and gradients to them."""

import logging

import pytest
import torch
from model_zoo import POCKET, one_tower, random_modules, states

from escdiff_core.errors import ESCDiffError
from escdiff_core.model.text import split_placeholders, word_embedding

WIDTH = POCKET["text_encoder"]["hidden_size"]


@pytest.fixture(scope="module")
def model():
    return one_tower(random_modules(POCKET)[2].requires_grad_(False), POCKET["tokenizer"])


def plain(model, prompts):
    """What diffusers' Stable Diffusion pipeline does with prompts."""
    (tower,) = model.towers
    ids = tower.tokenizer(
        prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    return tower.encoder(input_ids=ids).last_hidden_state


@pytest.mark.parametrize("prompts", [["a photo of a red star"], ["", "a"], ["red " * 200, "a star"]])
def test_without_placeholder_it_is_the_plain_path(model, prompts):
    got = states(model, prompts, {"*m": torch.zeros(1, WIDTH)})
    assert got.shape == (len(prompts), 77, WIDTH)
    assert torch.equal(got, plain(model, prompts))


@pytest.mark.parametrize("template", ["a photo of a {}", "{}", "{} star, {}!", "a ({}) star of {}"])
@pytest.mark.parametrize("name", ["*m", "<my-cat>", "S*"])
def test_the_words_own_embedding_gives_the_plain_path(model, template, name):
    vector = word_embedding(model.towers[0], "heart")
    assert vector.shape == (1, WIDTH)
    got = states(model, [template.replace("{}", name), "a star"], {name: vector})
    assert torch.equal(got, plain(model, [template.replace("{}", "heart"), "a star"]))


def test_several_vectors_take_several_places(model):
    words = word_embedding(model.towers[0], "red heart star")  # (3, dim)
    got = states(model, ["a photo of *m shape", "*m"], {"*m": words})
    assert torch.equal(got, plain(model, ["a photo of red heart star shape", "red heart star"]))


def test_two_tokens_in_one_prompt(model):
    tokens = {
        "*m": word_embedding(model.towers[0], "star"),
        "*a": word_embedding(model.towers[0], "red heart"),
    }
    got = states(model, ["a *m shape of *a appearance"], tokens)
    assert torch.equal(got, plain(model, ["a star shape of red heart appearance"]))


def test_gradient_reaches_the_vectors_only(model):
    vectors = word_embedding(model.towers[0], "star heart").requires_grad_()
    before = model.towers[0].table.weight.clone()
    states(model, ["a red *m", "a star", "*m"], {"*m": vectors}).square().sum().backward()
    assert vectors.grad is not None and (vectors.grad.abs().sum(dim=1) > 0).all()
    assert torch.equal(model.towers[0].table.weight, before) and model.towers[0].table.weight.grad is None
    assert not model.towers[0].table._forward_hooks


def test_the_hook_goes_even_when_the_encoder_fails(model, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model.towers[0].encoder, "forward", fail)
    with pytest.raises(RuntimeError):
        states(model, ["*m"], {"*m": torch.zeros(1, WIDTH)})
    assert not model.towers[0].table._forward_hooks


@pytest.mark.parametrize("before, kept", [(74, 1), (72, 3), (75, 0), (90, 0)])
def test_long_prompts_are_cut_and_the_log_says_so(model, caplog, before, kept):
    with caplog.at_level(logging.WARNING):
        vectors = word_embedding(model.towers[0], "star heart photo")
        got = states(model, ["red " * before + "*m" + " a" * 5], {"*m": vectors})
    assert "prompt cut to 75" in caplog.text and ("a learned one is lost" in caplog.text) == (kept < 3)
    words = "red " * before + " ".join(["star", "heart", "photo"][:kept])
    assert torch.equal(got, plain(model, [words]))


@pytest.mark.parametrize("prompt, found",
                         [("a *m vase", ["*m"]), ("(*m:1.3)", ["*m"]), ("*m,*a", ["*m", "*a"]),
                          ("*m-shaped", ["*m"]), ("*m2 *m", ["*m2", "*m"]), ("*mouse", []), ("of*m", ["*m"]),
                          ("*m*a", ["*m", "*a"]), ("一张*m的照片", ["*m"]), ("*m의", ["*m"]), ("*mé", []),
                          ("*m_a", []), ("*M", []), ("m", []), ("", []),])  # fmt: skip
def test_a_placeholder_is_a_word_of_its_own(prompt, found):
    pieces = split_placeholders(prompt, ["*m", "*a", "*m2"])
    assert [p for p, is_placeholder in pieces if is_placeholder] == found
    assert "".join(p for p, _ in pieces) == prompt


@pytest.mark.parametrize("shape", [(1, 7), (0, WIDTH), (1, 1, WIDTH), (3,)])
def test_vectors_of_another_model_are_refused(model, shape):
    with pytest.raises(ESCDiffError, match=r"\*m"):
        states(model, ["*m"], {"*m": torch.zeros(shape)})


def test_a_word_without_tokens_is_refused(model):
    with pytest.raises(ESCDiffError, match="no tokens"):
        word_embedding(model.towers[0], "  ")
