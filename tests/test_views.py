"""Augmented views: any subject stays inside its picture, and a cut keeps its outline, whatever the picture's
shape."""

import os

import numpy as np
import pytest
import torch
from method_zoo import disc, quick, some_bank

from escdiff_core.errors import ESCDiffError
from escdiff_core.families.load import load_model
from escdiff_core.learning import bank as banks
from escdiff_core.learning.bank import USUAL, Bank, Words, bank_of, words_of
from escdiff_core.learning.learn import prepare
from escdiff_core.learning.own_views import recolour as recolour_own
from escdiff_core.learning.views import prepare_views, view_sources
from escdiff_core.model.tokenizer import build_tokenizer
from escdiff_core.reference import Reference
from escdiff_core.worlds.pocket.views import reshape


@pytest.mark.parametrize("subject", ["disc", "wire", "speck", "square", "frame", "whole"])
@pytest.mark.parametrize("augmentation", sorted(set(view_sources()) - {"none"}))
def test_views_of_any_subject_stay_inside_the_picture(augmentation, subject):
    y, x = np.mgrid[:96, :64]
    mask = {
        "disc": (y - 40)**2 + (x - 30)**2 < 300, "wire": abs(y - x) < 1, "speck": (y == 7) & (x == 9),
        "square": (abs(y - 48) < 31) & (abs(x - 32) < 31), "frame": (x < 3) | (x > 60) | (y < 3) | (y > 92),
        "whole": x >= 0
    }[subject].astype(np.float32)
    image = np.stack([x / 64, y / 96, 0 * x], -1).astype(np.float32)
    reference = Reference(image, mask)
    source = view_sources()[augmentation]
    given = {"bank": some_bank()} if source.needs_bank else {}
    draw = source.of(reference.image, reference.mask, **given)
    for seed in range(6):
        view = draw(np.random.default_rng(seed))
        assert (
            view.image.shape == image.shape
            and view.mask.shape == mask.shape
            and view.image.dtype == np.float32
        )
        assert np.isfinite(view.image).all() and view.image.min() >= 0 and view.image.max() <= 1
        assert view.mask.sum() > 0 and view.rest and view.behind
        if subject != "whole" and source.needs_outline:
            rim = np.concatenate([view.mask[0], view.mask[-1], view.mask[:, 0], view.mask[:, -1]])
            assert rim.max() < 0.6, "a subject that is cut off has lost its shape"


@pytest.mark.parametrize("size", [(64, 256), (256, 64), (128, 192)])
def test_a_cut_is_whole_in_a_picture_of_any_shape(size):
    reference, rng, seen = disc(size), np.random.default_rng(0), 0
    draw = reshape(reference.image, reference.mask)
    for _ in range(40):
        view = draw(rng)
        rows, columns = np.nonzero(view.mask > 0.5)
        assert len(rows) > 0.05 * min(size) ** 2
        if view.rest in ("circle", "square", "hexagon"):
            seen += 1
            assert 0.75 < (np.ptp(rows) + 1) / (np.ptp(columns) + 1) < 1.33, f"a {view.rest} that was cut off"
    assert seen > 3


def test_a_shape_s_own_views_keep_its_light_and_shed_its_surface():
    """A disc that is dark on the left, with fine stripes: the stripes are gone, the left is dark still."""
    y, x = np.mgrid[:96, :96]
    mask = ((y - 48) ** 2 + (x - 48) ** 2 < 900).astype(np.float32)
    image = np.repeat(((0.3 + 0.4 * x / 96) * (0.7 + 0.3 * (y % 4 < 2)))[..., None], 3, -1)
    grey, white = (np.full((96, 96, 3), value, np.uint8) for value in (128, 255))
    plain = Bank((), (("grey", grey),), (("here", white),))
    view = recolour_own(image.astype(np.float32), mask, plain)(np.random.default_rng(0))
    inside = view.mask > 0.99
    columns = np.array([view.image[:, c][inside[:, c]].mean() for c in np.flatnonzero(inside.sum(0) > 20)])
    assert columns[-5:].mean() > 1.3 * columns[:5].mean()
    rows = view.image.mean(-1)[44:52, 44:52]
    assert np.abs(np.diff(rows, axis=0)).max() < 0.02, "stripes are no light"


@pytest.fixture
def drawn(monkeypatch):
    """How often pictures were drawn, of two words each."""
    few = [dict(list(part.items())[:2]) for part in (USUAL.things, USUAL.surfaces, USUAL.grounds)]
    monkeypatch.setattr(banks, "USUAL", Words(*few))
    times, usual = [], banks.sample
    monkeypatch.setattr(banks, "sample", lambda *a, **k: times.append(1) or usual(*a, **k))
    monkeypatch.setattr(banks, "STEPS", 1)
    monkeypatch.setattr(banks, "_REMEMBERED", {})
    return times


def test_a_bank_is_drawn_once_for_a_checkpoint_and_anew_for_another(model, drawn, tmp_path):
    first = bank_of(model, tmp_path)
    assert [words for words, _ in first.surfaces] == list(USUAL.surfaces)[:2] and len(first.grounds) == 2
    assert all(picture.shape == (64, 64, 3) for _, picture in (*first.surfaces, *first.grounds))
    bank_of(model, tmp_path)
    banks._REMEMBERED.clear()
    again = bank_of(model, tmp_path)
    assert len(drawn) == 1 and len(list(tmp_path.iterdir())) == 1
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(first.surfaces, again.surfaces, strict=True))
    weight = model.unet.conv_out.weight
    before = weight.detach().clone()
    try:
        weight.data += 0.1              # as a LoRA does
        bank_of(model, tmp_path)
    finally:
        weight.data.copy_(before)
    assert len(drawn) == 2 and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["damaged", "of other pictures", "no folder"])
def test_what_lies_in_the_folder_may_be_anything(damage, model, drawn, tmp_path, caplog):
    folder = tmp_path / "banks"
    if damage == "no folder":
        folder.write_text("a file")
    else:
        bank_of(model, folder)
        banks._REMEMBERED.clear()
        [file] = folder.iterdir()
        if damage == "damaged":
            file.write_bytes(b"nothing")
        else:
            banks._write(file, np.zeros((3, 64, 64, 3), np.uint8))
        drawn.clear()
    assert len(bank_of(model, folder).surfaces) == 2 and len(drawn) == 1
    assert ("drawn again next time" in caplog.text) == (damage == "no folder")


def test_the_folder_holds_the_banks_that_were_used_last(model, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(banks, "KEPT", 2)
    bank_of(model, tmp_path)
    [first] = tmp_path.iterdir()
    for number in (1, 2):
        os.utime(first, (0, number))
        banks._write(tmp_path / f"{number}.safetensors", np.zeros((3, 8, 8, 3), np.uint8))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["1.safetensors", "2.safetensors"]
    banks._REMEMBERED.clear()
    os.utime(tmp_path / "2.safetensors", (0, 5))
    bank_of(model, tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {first.name, "1.safetensors"} and len(drawn) == 2
    os.utime(first, (0, 0))
    banks._REMEMBERED.clear()
    bank_of(model, tmp_path)
    assert first.stat().st_mtime > 0 and len(drawn) == 2, "read, and so used last"


def test_a_model_that_draws_no_outline_cannot_learn_an_appearance_with_them(model, drawn, monkeypatch):
    monkeypatch.setattr(banks, "_mask", lambda picture: None)
    recipe = quick("escdiff-appearance-own")
    with pytest.raises(ESCDiffError, match="no outline to learn with; take a recipe without -own"):
        prepare(model, [disc()], recipe)
    assert prepare(model, [disc()], quick("escdiff-shape-own")).views.own == 2, "a shape brings its own"


def test_the_words_of_a_bank_are_words_of_its_model():
    """Each is one token: what a model has never read it cannot draw."""
    tokenizer, known = build_tokenizer(None), set()
    for text in (*USUAL.things, *USUAL.surfaces, *USUAL.grounds):
        words = text.split()
        known |= {word for word in words if len(tokenizer(word).input_ids) == 3}
        assert set(words) <= known, text
    pocket = load_model("pocket", "cpu")
    words = {word for prompt in words_of(pocket).prompts() for word in prompt.split()}
    assert {word for word in words if len(pocket.tokenizer(word).input_ids) != 3} == set()


def test_views_are_encoded_in_the_precision_of_learning(model):
    """To rounding the same latents, and not the same ones: half precision is asked of the autoencoder too."""
    recipe, reference = quick("escdiff-shape"), disc()
    exact, again, halved = (prepare_views(model, [reference], recipe, 0, precision=precision).latents
                            for precision in ("fp32", "fp32", "bf16"))
    assert exact.dtype == halved.dtype == torch.float32 and torch.equal(exact, again)
    assert 0 < (exact - halved).square().mean().sqrt() < 0.05 * exact.std()
