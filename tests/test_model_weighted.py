"""Prompts for drawing: weights in parentheses and chunks of 75, by the rules and against the plain
encoding."""

import pytest
import torch
from model_zoo import POCKET, one_tower, random_modules, states

from escdiff_core.errors import ESCDiffError
from escdiff_core.model.text import word_embedding
from escdiff_core.model.weighted import chunks_of, encode_weighted, weighted_parts


@pytest.fixture(scope="module")
def model():
    return one_tower(random_modules(POCKET)[2].requires_grad_(False), POCKET["tokenizer"])


def weighted(model, prompts, tokens=None):
    return encode_weighted(model, prompts, tokens).context


@pytest.mark.parametrize(
    "text, parts",
    [
        ("a star", [("a star", 1)]),
        ("", []),
        ("a (red:1.3) star", [("a ", 1), ("red", 1.3), (" star", 1)]),
        ("(red)", [("red", 1.1)]),
        ("((red))", [("red", 1.1 * 1.1)]),
        ("(red:-0.5)", [("red", -0.5)]),
        ("((red:1.2) star:1.5)", [("red", 1.2), (" star", 1.5)]),
        ("(a (red) star:1.5)", [("a ", 1.5), ("red", 1.65), (" star", 1.5)]),
        (r"a \(red\) star", [(r"a \(red\) star", 1)]),
        (r"(\(red\):1.2)", [(r"\(red\)", 1.2)]),
        ("(red:much)", [("red:much", 1.1)]),
        ("(:1.3)", [(":1.3", 1.1)]),
        ("()", [("", 1.1)]),
        ("a) (red:1.3)", [("a) (red:1.3)", 1)]),
        ("a (red", [("a ", 1), ("(red", 1)]),
        ("((red)", [("(red", 1.1)]),
    ],
)
def test_what_weighs_what(text, parts):
    assert [(part, pytest.approx(weight)) for part, weight in weighted_parts(text) if part or not parts] == \
        [(part, weight) for part, weight in parts if part]


def test_without_weights_a_short_prompt_is_the_plain_one(model):
    prompts = ["a photo of a red *m", "", "a star"]
    tokens = {"*m": word_embedding(model.towers[0], "heart star")}
    assert torch.equal(weighted(model, prompts, tokens), states(model, prompts, tokens))


def test_a_weight_leads_away_from_the_empty_prompt(model):
    plain, empty = states(model, ["a red star", ""])
    heavy, none = weighted(model, ["a (red:1.5) star", "a (red:0) star"])
    place = 1 + len(model.towers[0].tokenizer("a", add_special_tokens=False).input_ids)
    torch.testing.assert_close(heavy[place], empty[place] + 1.5 * (plain[place] - empty[place]))
    torch.testing.assert_close(none[place], empty[place])
    others = [i for i in range(77) if i != place]
    assert torch.equal(heavy[others], plain[others])


def test_gradient_reaches_a_weighted_token(model):
    vectors = word_embedding(model.towers[0], "star").requires_grad_()
    weighted(model, ["a " * 80 + "(*m:1.3)"], {"*m": vectors}).square().sum().backward()
    assert vectors.grad.abs().sum() > 0


def test_long_prompts_go_on_in_further_chunks(model):
    tokens = {"*m": word_embedding(model.towers[0], "star")}
    got = weighted(model, ["a " * 80 + "*m", "a *m"], tokens)
    assert got.shape[:2] == (2, 154)
    torch.testing.assert_close(got[0], states(model, ["a " * 75, "a " * 5 + "*m"], tokens).flatten(0, 1))
    torch.testing.assert_close(got[1], states(model, ["a *m"] * 2, tokens).flatten(0, 1))


@pytest.mark.parametrize("words, kept", [(7, 70), (8, 75)])
def test_a_short_part_is_not_cut_in_two(model, words, kept):
    first, second = chunks_of(model.towers[0], "a " * 70 + "(" + "a " * words + ":1.2)", {})
    end = model.towers[0].tokenizer.eos_token_id
    assert [row.index((end, None, 1.0)) - 1 for row in (first, second)] == [kept, 70 + words - kept]
    assert len(first) == len(second) == 77


def test_embedding_files_are_said_to_be_unknown(model, caplog):
    encode_weighted(model, ["a star (embedding)", "my embedding: a star"])
    assert not caplog.text
    encode_weighted(model, ["a star, embedding:mine"])
    assert "only ComfyUI knows" in caplog.text


@pytest.mark.parametrize("prompts", ["a star", []])
def test_what_is_no_list_of_prompts_is_refused(model, prompts):
    with pytest.raises(ESCDiffError, match="a list with at least one text"):
        encode_weighted(model, prompts)
