"""Inside real ComfyUIs: a CONDITIONING of ours is changed as a whole by stock nodes, or its sampler says what
it cannot do."""


import pytest

pytestmark = pytest.mark.newest
FOLLOW = [
    "as it is", "Average 0", "Average 0.3", "Average with a stock prompt", "a stock prompt averaged",
    "Concat", "Concat of a stock prompt", "Concat to a stock prompt", "ZeroOut", "times 0", "times 1.5",
    "range 0 to 1", "ranges", "SetArea", "SetMask", "Combine", "Clear"
]
LOST = "no prompt of this sampler brings the weights of the schedule that its MODEL has from ESCDiff"


def test_every_section_of_the_probe_came_to_its_end(found):
    assert found["failed"] == {}, "\n".join(found["failed"].values())


@pytest.mark.parametrize("mix", ["routed", "scheduled"])
@pytest.mark.parametrize("case", FOLLOW)
def test_what_a_stock_node_does_reaches_every_prompt(found, mix, case):
    steps, difference = found[f"{mix}: {case}"]
    assert steps == 3 and difference <= 1e-4, (
        "beside the headless mix with the same done to the prompt of every slot"
    )


@pytest.mark.parametrize("mix", ["routed", "scheduled"])
def test_positive_and_negative_are_one_batch(found, mix):
    assert found[f"{mix}: batches"] == [2, 2, 2]


@pytest.mark.parametrize(
    "case, sentence", {
        "model without attributes": "connect that of the same ESCDiff Mix or Apply",
        "model of another mix": LOST,
        "same width, other blocks": "belongs to another ESCDiff Mix or Apply; take MODEL, positive and "
        "negative from one of them",
        "two mixes joined": "prompts of two ESCDiff nodes with different attributes or schedules were joined",
        "weights of the schedule lost": LOST, "stock prompts on a schedule": LOST,
        "Clear behind a join": "put ESCDiff Clear before that node",
    }.items())
def test_what_cannot_be_done_is_one_sentence(found, case, sentence):
    message = found["refused"][case]
    assert message.startswith("builtins.ESCDiff: ") and sentence in message and "\n" not in message


def test_stock_prompts_have_the_weights_of_the_model(found):
    assert found["stock prompts on a route"]
    assert found["first step of a stock negative"] <= 1e-4, (
        "a stock negative beside a positive with a schedule"
    )


@pytest.mark.parametrize("case, words", {
    "mask": "or take the mask away", "no token": "choose the form lora",
    "no folder": "the folder /nowhere does not exist or is no folder; give a folder of pictures",
}.items())
def test_a_node_speaks_of_nodes(found, case, words):
    assert words in found["words"][case] and "--" not in found["words"][case]


def test_an_export_says_on_the_node_what_other_programs_cannot_do(found):
    assert "nly ESCDiff can show *m to the 12 blocks alone that learned it" in found["words"]["export own"]
    assert "nly ESCDiff" not in found["words"]["export all"]
