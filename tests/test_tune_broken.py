"""Learning that is cut short: cancelled, failed, out of memory or resumed, the model stays as it was and
nothing is lost."""

import pytest
import torch
from method_zoo import disc, hash_of, quick, saved

from escdiff_core.attribute import Attribute
from escdiff_core.errors import ESCDiffError
from escdiff_core.learning import snapshots, tune, unzip
from escdiff_core.learning.filters import make_filter
from escdiff_core.learning.learn import Snapshots, learn, prepare
from escdiff_core.learning.report import expected_state_bytes
from escdiff_core.learning.tune import Tuner
from escdiff_core.unet.halves import decode

pytestmark = pytest.mark.usefixtures("in_fp32")


class Stop(Exception):
    pass


def stop_after(step, error=Stop):
    def on_step(progress):
        if progress.step == step:
            raise error
    return on_step


def failing(monkeypatch, error, after):
    """Let the decoder fail with ``error`` from its call number ``after`` on."""
    calls = []

    def decode_or_fail(*args):
        calls.append(1)
        if len(calls) > after:
            raise error
        return decode(*args)

    monkeypatch.setattr(tune, "decode", decode_or_fail)


@pytest.mark.parametrize("name", ["escdiff-shape-full", "escdiff-appearance"])
def test_the_model_is_untouched_after_learning_cancel_and_error(name, model, monkeypatch):
    before, rng = hash_of(model), torch.get_rng_state()
    prepare(model, [disc()], quick(name)).run()
    assert hash_of(model) == before
    with pytest.raises(KeyboardInterrupt):
        prepare(model, [disc()], quick(name)).run(stop_after(1, KeyboardInterrupt))
    assert hash_of(model) == before
    failing(monkeypatch, RuntimeError("something broke"), after=1)
    with pytest.raises(RuntimeError, match="something broke"):
        prepare(model, [disc()], quick(name)).run()
    assert hash_of(model) == before
    assert torch.equal(torch.get_rng_state(), rng), (
        "the caller's random numbers go on as if nothing had happened"
    )


def keep(tuner, folder):
    snapshots.save_snapshot(tuner.state(), tuner.attribute(), folder)


@pytest.mark.parametrize("name", ["escdiff-appearance-full", "unziplora"])
def test_a_failed_step_leaves_nothing_for_the_next(name, model, monkeypatch):
    unbroken, broken = (prepare(model, [disc()], quick(name)) for _ in range(2))
    unbroken.step()
    with monkeypatch.context() as patch:
        patch.setattr(broken.optimizer.adamw, "step", lambda: (_ for _ in ()).throw(RuntimeError("late")))
        with pytest.raises(RuntimeError, match="late"):
            broken.step()
    assert broken.done == 0 and all(p.grad is None for p in broken.weights.values())
    broken.step()
    assert all(torch.equal(p, broken.weights[n]) for n, p in unbroken.weights.items())
    assert all(torch.equal(v, broken.trained.state[n]) for n, v in unbroken.trained.state.items())


@pytest.mark.parametrize("name, cached", [("escdiff-shape-full", False), ("escdiff-shape", False),
                                          ("escdiff-appearance-paper", True),
                                          ("unziplora", False),])  # fmt: skip
def test_a_resumed_run_is_the_unbroken_one(name, cached, model, tmp_path, monkeypatch):
    # the break is in the midst of the second
    monkeypatch.setattr(unzip, "OPENINGS", (range(1), range(2, 4)))
    recipe = quick(name, steps=4, cached=cached)
    unbroken = prepare(model, [disc()], recipe)
    whole = saved(unbroken.run(snapshots=tmp_path / "whole", snapshot_every=2), tmp_path, "whole")
    with pytest.raises(Stop):
        prepare(model, [disc()], recipe).run(stop_after(3), tmp_path / "broken", 2)
    assert sorted(p.name for p in (tmp_path / "broken").iterdir()) == [
        "resume.safetensors", "step-000002.safetensors", "step-000003.safetensors"]
    told = []
    resumed, report = learn(model, [disc()], recipe, on_step=lambda p: told.append(p.step),
                            snapshots=Snapshots(tmp_path / "broken", 2, resume=True))
    assert told == [4] and report.losses == unbroken.report.losses
    assert saved(resumed, tmp_path, "resumed") == whole
    middle = "step-000002.safetensors"
    assert (tmp_path / "broken" / middle).read_bytes() == (tmp_path / "whole" / middle).read_bytes()
    assert Attribute.load(tmp_path / "broken" / middle).steps == 2


@pytest.mark.parametrize("other", [{"seed": 1}, {"describe": "on a table"}, {"class_word": "star"},
                                   {"token": "*x"}, {"references": "another"}, {"recipe": {"steps": 3}},],
                         ids=lambda o: next(iter(o)))  # fmt: skip
def test_the_state_of_another_run_is_refused(other, model, tmp_path):
    keep(prepare(model, [disc()], quick("escdiff-appearance-full")), tmp_path)
    references = [disc(colour=0.5) if "references" in other else disc()]
    words = {k: v for k, v in other.items() if k not in ("references", "recipe")}
    given = model, references, quick("escdiff-appearance-full", **other.get("recipe", {}))
    with pytest.raises(ESCDiffError, match="another model, reference, recipe, seed or ESCDiff"):
        learn(*given, snapshots=Snapshots(tmp_path, resume=True), **words)
    begun = []
    learn(*given, snapshots=Snapshots(tmp_path, resume=True, discard=True),
          on_begin=lambda t: begun.append(t.done), **words)
    assert begun == [0], "begun anew, where that was asked for"


def test_resuming_without_a_state_starts_afresh_and_with_a_damaged_one_says_so(model, tmp_path):
    given = model, [disc()], quick("escdiff-appearance-full", steps=1)
    assert learn(*given, snapshots=Snapshots(tmp_path / "none", resume=True))[0].steps == 1
    (tmp_path / snapshots.STATE).write_bytes(b"half a file")
    with pytest.raises(ESCDiffError, match="damaged"):
        learn(*given, snapshots=Snapshots(tmp_path, resume=True))


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory"), MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
], ids=["gpu", "python", "cpu allocator", "windows", "mac", "gpu's library"])  # fmt: skip
def test_out_of_memory_is_one_sentence_and_saves_what_was_learned(error, model, monkeypatch, tmp_path):
    failing(monkeypatch, error, after=1)
    tuner = prepare(model, [disc()], quick("escdiff-appearance-full"))
    with pytest.raises(
        ESCDiffError, match=r"out of memory, even for 1 of a batch of 2 .* GiB .* a recipe that trains less"
    ) as caught:
        tuner.run(snapshots=tmp_path)
    assert "\n" not in str(caught.value) and all(p.grad is None for p in tuner.weights.values())
    assert Attribute.load(tmp_path / "step-000001.safetensors").steps == 1


def test_a_snapshot_that_finds_no_room_ends_no_run(model, monkeypatch, tmp_path, caplog):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("escdiff_core.files.save_file", full)
    assert (
        prepare(model, [disc()], quick("escdiff-appearance")).run(snapshots=tmp_path, snapshot_every=1).steps
        == 2
    )
    assert caplog.text.count("no snapshot of step") == 2
    with pytest.raises(Stop):
        prepare(model, [disc()], quick("escdiff-appearance-full")).run(stop_after(1), tmp_path)


def test_a_run_goes_on_with_its_own_filter_only(model, tmp_path):
    given = model, [disc()], quick("escdiff-shape-full")
    networks = [make_filter(model, prepare(*given).start.features, seed) for seed in range(2)]
    keep(prepare(*given, network=networks[0]), tmp_path)
    assert learn(*given, network=networks[0], snapshots=Snapshots(tmp_path, resume=True))[0].steps == 2
    keep(prepare(*given, network=networks[0]), tmp_path)
    with pytest.raises(ESCDiffError, match="holds a run with another"):
        learn(*given, network=networks[1], snapshots=Snapshots(tmp_path, resume=True))


def test_a_fresh_run_replaces_the_snapshots_of_the_one_before(model, tmp_path):
    prepare(model, [disc()], quick("escdiff-appearance", steps=4)).run(snapshots=tmp_path, snapshot_every=2)
    prepare(model, [disc()], quick("escdiff-appearance", steps=3)).run(snapshots=tmp_path, snapshot_every=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["resume.safetensors", "step-000003.safetensors"]


def test_a_fresh_run_that_cannot_save_leaves_the_snapshots_of_the_one_before(model, tmp_path, monkeypatch):
    prepare(model, [disc()], quick("escdiff-appearance", steps=2)).run(snapshots=tmp_path, snapshot_every=2)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("escdiff_core.files.save_file", full)
    prepare(model, [disc()], quick("escdiff-appearance", steps=3)).run(snapshots=tmp_path, snapshot_every=3)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("recipe", ["escdiff-appearance-full", "dreambooth-prior"])
def test_preparing_is_heard_and_can_be_stopped(recipe, model):
    heard = []
    prepare(model, [disc()], quick(recipe), preparing=lambda done, total: heard.append((done, total)))
    done, totals = zip(*heard, strict=True)
    assert list(done) == sorted(done) and len(set(totals)) == 1 and done[-1] == totals[0]

    def stop(done, _total):
        raise Stop

    with pytest.raises(Stop):
        prepare(model, [disc()], quick(recipe), preparing=stop)


@pytest.mark.parametrize("name", ["escdiff-shape-full", "escdiff-appearance-full", "escdiff-shape-paper"])
def test_what_a_run_will_need_is_known_before_it_begins(name, model):
    recipe = quick(name)
    tuner = prepare(model, [disc()], recipe)
    weights = 20 * sum(p.numel() for p in tuner.weights.values())
    assert expected_state_bytes(model, recipe) == weights > 0
    assert expected_state_bytes(model, quick("escdiff-shape")) == 0


def test_a_run_that_ran_away_is_nothing_to_go_on_from(model, monkeypatch, tmp_path):
    usual = Tuner.parts

    def parts(tuner):
        return (part * (float("nan") if tuner.done == 1 else 1) for part in usual(tuner))

    monkeypatch.setattr(Tuner, "parts", parts)
    with pytest.raises(ESCDiffError, match="the loss of step 2 is nan"):
        prepare(model, [disc()], quick("escdiff-appearance-full", steps=3)).run(
            snapshots=tmp_path, snapshot_every=0
        )
    assert not (tmp_path / snapshots.STATE).exists()
