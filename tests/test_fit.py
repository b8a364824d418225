"""A run fits the memory there is: what is computed at once changes nothing but the memory it takes."""

import logging
import weakref

import pytest
import torch
from method_zoo import disc, quick

from escdiff_core.errors import ESCDiffError
from escdiff_core.learning import fit, tune
from escdiff_core.learning.fit import SHARE, Fit, choose, free_bytes
from escdiff_core.learning.learn import learn, prepare
from escdiff_core.unet.halves import decode

ROWS = ["escdiff-shape-full", "escdiff-appearance", "escdiff-shape-paper", "neti", "unziplora", "cached"]


pytestmark = pytest.mark.usefixtures("in_fp32")


def run_of(model, name="escdiff-shape-full", batch=5, **changes):
    if name == "cached":
        name, changes = "escdiff-appearance-paper", {**changes, "cached": True, "pool": 10}
    return prepare(model, [disc()], quick(name, batch_size=batch, **changes))


def gradients(tuner) -> list[torch.Tensor]:
    for part in tuner.parts():
        part.backward()
    found = [p.grad.clone() for p in (*tuner.weights.values(), tuner.offset) if p.grad is not None]
    tuner.optimizer.forget()
    return found


@pytest.mark.parametrize("name", ROWS)
def test_a_step_in_parts_is_the_whole_step_to_rounding(name, model):
    whole, parts = run_of(model, name), run_of(model, name)
    parts.settle(Fit(2))            # 2, 2 and 1
    assert len(list(parts.parts())) == 3
    for one, other in zip(gradients(whole), gradients(parts), strict=True):
        # of the whole tensor: one small element's own error is a matter of the processor's order of sums
        assert float((other - one).norm()) <= 1e-4 * float(one.norm()) + 1e-9
    losses = [[tuner.step() for _ in range(2)] for tuner in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_it_takes_what_the_memory_holds_and_says_so(model, caplog):
    tuner, asked = run_of(model, batch=8), []

    def room(free):
        return lambda needed: asked.append(needed) or free

    with caplog.at_level(logging.INFO):
        choose(tuner, room(1e12))
    whole = tuner.report.needed_bytes
    assert (tuner.fit, tuner.report.rows) == (Fit(8), 8) and asked == [pytest.approx(whole / SHARE)]
    choose(tuner, lambda needed: needed)
    assert tuner.fit == Fit(8), "what is made is enough"
    assert "8 of a batch of 8 at once" in caplog.text
    choose(tuner, room(0.6 * whole / SHARE))
    assert 1 <= tuner.fit.rows < 8 and tuner.report.needed_bytes <= 0.6 * whole
    choose(tuner, room(None))
    assert tuner.fit == Fit(8), "where nobody knows, the whole batch is tried"
    choose(tuner, room(0.0))
    assert tuner.fit == Fit(1, True) and tuner.report.checkpointing
    tuner.settle(Fit(8))
    assert not any(getattr(module, "gradient_checkpointing", False) for module in tuner.unet.modules())
    assert all(p.grad is None for p in tuner.weights.values()), "the measuring leaves nothing behind"


def test_what_it_needs_grows_with_the_batch_and_less_with_checkpointing(model):
    needs = {}
    for batch, checkpointing in ((2, False), (4, False), (8, False), (8, True)):
        tuner = run_of(model, batch=batch)
        tuner.settle(Fit(batch, checkpointing))
        choose(tuner, lambda needed: 1e12)
        needs[batch, checkpointing] = tuner.report.needed_bytes
    first, second = needs[4, False] - needs[2, False], needs[8, False] - needs[4, False]
    assert second == pytest.approx(2 * first, rel=0.1)
    assert needs[8, True] < 0.7 * needs[8, False]


def test_what_autograd_keeps_is_counted_once_and_without_the_weights():
    layer, x = torch.nn.Linear(8, 16), torch.randn(4, 8)
    with fit._kept([layer]) as storages:
        out = layer(x).relu()               # keeps x, and what relu gave
        out * out                           # twice the same
    assert sorted(kept.size for kept in storages.values()) == [4 * x.numel(), 4 * out.numel()]


def test_the_memory_of_this_machine_is_known():
    assert free_bytes(torch.device("cpu")) > 2**20 and free_bytes(torch.device("meta")) is None


def too_much(monkeypatch, most: int):
    """Let the decoder find no memory for more than ``most`` rows."""
    def decode_or_fail(unet, features, texts):
        if len(features.sample) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(unet, features, texts)

    monkeypatch.setattr(tune, "decode", decode_or_fail)


def test_where_memory_runs_out_the_step_is_taken_again_in_smaller_parts(model, monkeypatch, caplog):
    usual = run_of(model)
    expected = [usual.step() for _ in range(2)]
    too_much(monkeypatch, 2)
    tuner = run_of(model)
    assert [tuner.step() for _ in range(2)] == pytest.approx(expected, rel=1e-4)
    assert tuner.fit == Fit(2) and tuner.done == 2
    assert caplog.text.count("out of memory: from step 1 on") == 2, "5 rows became 3, and 3 became 2"


class _FailsOnce(torch.autograd.Function):
    """The identity, whose first way back finds no memory."""

    failed = False

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        if not _FailsOnce.failed:
            _FailsOnce.failed = True
            raise torch.OutOfMemoryError("CUDA out of memory")
        return grad


def test_what_found_no_memory_is_gone_before_the_next_try(model, monkeypatch):
    made = []

    def watched(*given):
        assert all(ref() is None for ref in made), "the failed part still holds its activations"
        out = _FailsOnce.apply(decode(*given))
        made.append(weakref.ref(out))
        return out

    monkeypatch.setattr(tune, "decode", watched)
    tuner = run_of(model, batch=2)
    tuner.step()
    assert _FailsOnce.failed and tuner.fit == Fit(1) and len(made) == 3


def test_room_is_made_before_less_is_taken(model, monkeypatch):
    """As where ComfyUI's own models fill the card until they are asked to go."""
    asked = []

    def decode_or_fail(*given):
        if not asked:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(*given)

    monkeypatch.setattr(tune, "decode", decode_or_fail)
    tuner = run_of(model)
    choose(tuner, lambda needed: asked.append(needed) or 1e12)
    assert tuner.fit == Fit(5) and len(asked) == 2


def test_a_run_whose_memory_holds_one_row_learns_from_the_first_step_on(model, monkeypatch):
    too_much(monkeypatch, 1)
    made, report = learn(model, [disc()], quick("escdiff-shape-full", batch_size=4))
    assert made.steps == 2 and report.rows == 1 and not report.checkpointing


def test_no_memory_for_anything_is_a_sentence(model, monkeypatch):
    too_much(monkeypatch, 0)
    with pytest.raises(ESCDiffError, match="out of memory, even for 1 of a batch of 4 at once"):
        learn(model, [disc()], quick("escdiff-shape-full", batch_size=4))
