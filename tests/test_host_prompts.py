"""Prompts with tokens inside real ComfyUIs: what the stock text node gives for a plain word in the token's
place."""


import pytest


@pytest.mark.parametrize("case", ["pocket", "sd15", "two words"])
def test_a_token_that_is_a_word_gives_what_the_word_gives(found, case):
    assert {form: d for form, d in found[case].items() if d > 1e-6} == {}


def test_the_command_line_reads_prompts_as_the_host_does(found):
    assert {form: d for form, d in found["headless"].items() if d > 1e-4} == {}


@pytest.mark.parametrize("model", ["pocket", "sd15"])
def test_a_token_is_no_plain_text(found, model):
    assert found[f"{model}, it acts"] > 0.01


def test_each_text_encoder_gets_vectors_of_its_own(found):
    assert sorted(found["two towers"]) == [["g", [[5, 2.0]], True, 4, True], ["l", [[3, 1.0]], True, 4, True]]


@pytest.mark.parametrize("model", ["pocket", "sd15"])
def test_a_clip_with_tokens_goes_through_the_nodes_for_clips(found, model):
    on_the_way = found[f"{model}, on the way"]
    assert on_the_way.pop("merge changes") > 0.01
    assert {way: d for way, d in on_the_way.items() if d > 1e-6} == {}


@pytest.mark.parametrize("model", ["pocket", "sd15"])
def test_the_table_of_words_is_never_copied(found, model):
    assert found[f"{model}, copies of the table"] == 0
