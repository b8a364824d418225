"""Inside real ComfyUIs: what nodes say on themselves, what is found in the cache, and how a stopped run goes
on."""


import pytest

pytestmark = pytest.mark.newest
INPUTS = ["model", "LoRA", "LoRA strength", "schedule", "clip", "LoRA on clip", "clip skip", "vae", "picture",
          "two pictures", "mask", "no mask", "encoder", "no encoder", "timestep", "seed of looking", "kind",
          "class word", "filter", "seed", "describe", "token name", "steps", "preset", "batch size"]
NO_TOKEN = (
    "The prompt does not contain *a, so the appearance attribute will hardly show; write *a where the "
    "appearance belongs"
)
WHOLE = "Give a mask if only a part of the picture is meant; no plain background: "
SIZE = (
    "Set the latent to 128×128 pixels: this model draws pictures of about that size, and 512×512 were "
    "asked for"
)


def test_the_same_again_costs_no_step_no_copy_and_no_look(found):
    counts, shown = found["first"]
    assert counts == {"steps": 6, "copies": 1, "features": 1} and shown == " "
    counts, shown, same = found["again"]
    assert counts == {"steps": 0, "copies": 0, "features": 0}, (
        "through other nodes, and with another number of threads"
    )
    assert same and shown.startswith("Found in the cache")


def test_the_key_is_that_of_the_inputs(found):
    assert found["same_key"] == {"again": True, "loaded anew": True, "token spelled out": True}, (
        "on another number of threads"
    )


@pytest.mark.parametrize("name", INPUTS)
def test_another_input_is_another_key(found, name):
    assert found["key_of"].keys() == set(INPUTS)
    assert found["key_of"][name], "a key that none of the others has"


def test_weights_are_read_once_for_each_loaded_checkpoint(found):
    assert found["hashed"] == 2, "CLIP and VAE, for three keys; the UNet's fingerprint is kept as it was"


def test_a_stopped_run_goes_on_to_the_same_result(found):
    kept, shown, steps = found["cancelled"]
    assert kept == [".unfinished"] and shown == (
        f"Stopped after step {steps} of 6; queue the same again to go on from there"
    )
    more, shown, left = found["resumed"]
    assert steps + more == 6 and more > 0 and shown.startswith(f"Going on from step {steps}") and left == 0
    same, differs_from_another_seed, all_steps = found["resumed_is_the_unbroken"]
    assert same and differs_from_another_seed and all_steps == 6


def test_a_state_that_cannot_be_read_is_begun_anew(found):
    assert found["damaged_state"] == [True, 6, 0]


@pytest.mark.parametrize("trouble", ["damaged", "empty"])
def test_a_damaged_file_of_the_cache_is_learned_again_and_replaced(found, trouble):
    assert [found[f"cache_{trouble}"], found[f"cache_{trouble}_mended"]] == [6, 0]


def test_a_cache_that_cannot_be_written_is_said_on_the_node(found):
    steps, shown = found["unwritable"]
    assert steps == 6 and shown.startswith("What was learned is not kept for the next time: cannot write ")


def test_warnings_show_on_the_node_and_go_when_they_no_longer_hold(found):
    notes = found["notes"]
    assert notes["no token"] == [NO_TOKEN, [NO_TOKEN], ["text"]]
    assert notes["token"] == [" ", [], []], "the warning of the run before is taken back"
    text, texts, kinds = notes["whole picture"]
    assert text.startswith(WHOLE) and text.endswith("the whole picture counts")
    assert texts == [text] and kinds == ["animated", "images", "text"], "beside the preview"
    assert notes["size"] == SIZE and notes["right size"] == " ", "on the stock KSampler"
    assert notes["two notes"][:2] == [f"{NO_TOKEN}\n{SIZE}", [NO_TOKEN, SIZE]]
    assert notes["one note"][:2] == [NO_TOKEN, [NO_TOKEN]]
    text = "No *a in this prompt: right for a negative one, but needed in a positive one"
    assert notes["prompt"] == [text, [text], ["text"]]
    assert notes["prompt with it"] == [" ", [], []] == notes["empty prompt"]
    assert found["listeners_left"] == 0


@pytest.mark.parametrize("case", ["nobody there", "no server"])
def test_without_a_page_to_show_it_on_a_warning_is_in_the_outputs(found, case):
    assert found["notes"][case] == [None, [NO_TOKEN], ["text"]]


def test_an_error_begins_with_its_sentence(found):
    module, name, sentence, traced, ours, shown = found["error"]
    assert (module, name) == ("builtins", "ESCDiff"), (
        "ComfyUI leaves out Python's own module alone; ours is a path"
    )
    assert sentence.startswith("recipe 'escdiff-shape' learns shape, not appearance") and traced and ours
    assert shown.lower() == sentence.lower(), "and it stands below the node"
