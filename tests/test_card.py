"""A run on a GPU, pretended (see pretend_card): all that it touches is brought there, it learns what it
learns on a CPU, and fits the memory there is."""

import gc

import numpy as np
import pytest
import torch
from method_zoo import disc, made_attribute, quick
from pretend_card import CARD, OnCard, card

from escdiff_core.families.load import load_model
from escdiff_core.learning.learn import Snapshots, learn
from escdiff_core.mixing.mix import Mix
from escdiff_core.mixing.plan import Use
from escdiff_core.model.autoencoder import image_to_latents, latents_to_images
from escdiff_core.model.sample import Drawing

TWO = Drawing(steps=2)
# one of each form of training and each layout, with and without what is hidden and cached
ROWS = {"escdiff-shape": {}, "escdiff-appearance-paper": {"cached": True}, "neti": {}, "ostaf": {},
        "unziplora": {}}


@pytest.fixture(scope="module")
def model(checkpoint):
    """The same file on the CPU."""
    return load_model(checkpoint, "cpu")


def test_a_card_is_as_strict_as_a_gpu():
    with card() as memory:
        before = memory.now
        there, here, layer = torch.ones(2, 3, device="cuda"), torch.ones(2, 3), torch.nn.Linear(3, 2)
        assert there.device == CARD and there.is_cuda and memory.now == before + 24
        for mix, *given in ((torch.add, there, here), (torch.cat, [there, here]), (layer, there)):
            with pytest.raises(RuntimeError, match="two devices"):
                mix(*given)
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        layer.to("cuda")(there).sum().backward()
        assert isinstance(layer.weight.grad, OnCard) and float((there + 1).cpu().sum()) == 12
    with card(free=1000), pytest.raises(torch.OutOfMemoryError):
        torch.ones(1001, dtype=torch.uint8, device="cuda")
    del there, layer, mix, given
    assert memory.now == before


def learned(model, name, changes, seen=None, **more):
    """What two steps make: the attribute, the run's figures, and what was drawn after them."""
    token, drawn = quick(name).token, []

    def look(progress):
        if seen is not None:
            seen()
        if progress.step == 2:
            drawn.append(progress.draw(f"a photo of {token}", TWO))

    return *learn(model, [disc()], quick(name, **changes), precision="fp32", on_step=look, **more), drawn[0]


@pytest.mark.parametrize("name", ROWS)
def test_a_run_there_learns_what_it_learns_on_a_cpu(name, model, checkpoint):
    usual, figures, drawn = learned(model, name, ROWS[name])
    with card() as memory:
        there, asked = load_model(checkpoint, "cuda"), []
        gc.collect()
        before = memory.now
        made, report, picture = learned(there, name, ROWS[name], lambda: asked.append(memory.asked))
        gc.collect()
        assert memory.now == before, "nothing is left there"
    assert report.losses == pytest.approx(figures.losses, rel=1e-4)
    assert report.drift == (figures.drift and pytest.approx(figures.drift, rel=0.01))
    assert np.abs(picture - drawn).max() < 1e-3
    assert made.delta.keys() == usual.delta.keys()
    assert {t.device.type for t in (*made.delta.values(), *made.embeddings.values())} == {"cpu"}
    assert off(made.embeddings, usual.embeddings) < 0.02 and off(made.delta, usual.delta) < 0.02
    assert asked[1] - asked[0] <= 3, "a step waits for the card to know its loss, and for little else"


def off(made: dict, usual: dict) -> float:
    """How far all of these tensors together are from those, as a share of them."""
    error = sum(float((made[n].float() - t.float()).square().sum()) for n, t in usual.items())
    return (error / (sum(float(t.float().square().sum()) for t in usual.values()) or 1.0)) ** 0.5


def test_a_run_goes_on_there(checkpoint, tmp_path):
    with card():
        there, kept = load_model(checkpoint, "cuda"), Snapshots(tmp_path, resume=True)
        recipe = quick("escdiff-appearance")
        whole, _ = learn(there, [disc()], recipe, precision="fp32")

        def stop(progress):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            learn(there, [disc()], recipe, precision="fp32", snapshots=kept, on_step=stop)
        made, report = learn(there, [disc()], recipe, precision="fp32", snapshots=kept)
    assert len(report.losses) == 2 and off(made.delta, whole.delta) == 0


def test_a_model_in_half_precision_learns_in_it(checkpoint):
    with card():
        there = load_model(checkpoint, "cuda", torch.bfloat16)
        made, report = learn(there, [disc()], quick("escdiff-appearance"))
        assert {p.dtype for p in there.unet.parameters()} == {torch.bfloat16}
    assert np.isfinite(report.losses).all() and any(float(t.abs().max()) for t in made.delta.values())


def test_a_run_fits_the_memory_there_is(checkpoint):
    """It runs out in the midst of a measuring pass, and what is chosen then fits."""
    recipe, found = quick("escdiff-appearance", batch_size=4, steps=1), []
    with card() as memory:
        there = load_model(checkpoint, "cuda")
    for free in (2**40, 5e6):
        with card(free) as memory:
            memory.most, begun = memory.now, memory.now
            _, report = learn(there, [disc()], recipe, precision="fp32")
            found.append((report, memory.most - begun))
    (plenty, most), (little, least) = found
    assert (plenty.rows, plenty.checkpointing) == (4, False) and most > 5e6, (most, least)
    assert little.rows < 4 and little.losses == pytest.approx(plenty.losses, rel=1e-4)


def test_a_mix_draws_there_what_it_draws_on_a_cpu(model, checkpoint):
    def drawn(by):
        uses = {k: Use(made_attribute(by, k, lora=True)) for k in ("shape", "appearance")}
        return Mix(by, **uses).draw("a photo of a *m with *a appearance", steps=2)

    with card():
        there = drawn(load_model(checkpoint, "cuda"))
    assert np.abs(there - drawn(model)).max() < 1e-3


def test_the_autoencoder_finds_room_on_a_card_that_the_model_fills(model, checkpoint):
    picture = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
    latents = image_to_latents(model, picture)
    with card() as memory:
        there = load_model(checkpoint, "cuda")
        memory.most = memory.now
        image_to_latents(there, picture)
        needed = memory.most - memory.now
        drawn, places = latents_to_images(there, latents), [t.encoder for t in there.towers] + [there.unet]
    with card(needed - 1000):
        with pytest.raises(torch.OutOfMemoryError):
            image_to_latents(there, picture)        # others may share the weights
        made = image_to_latents(there, picture, alone=True)
        assert torch.allclose(made.cpu(), latents, atol=1e-4), "exact: only the rest waited elsewhere"
        assert {p.device for module in places for p in module.parameters()} == {CARD}
        tiled = latents_to_images(there, latents)
        assert not there.vae.use_tiling
    assert tiled.shape == drawn.shape and 0 < np.abs(tiled - drawn).mean() < 0.3
