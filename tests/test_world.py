"""The pocket world: deterministic, exact masks, and nothing held out in any caption or training draw."""

import re
from dataclasses import replace

import numpy as np
import pytest

from escdiff_core.errors import ESCDiffError
from escdiff_core.pocket import captions, colours, patterns, shapes
from escdiff_core.pocket.tokenizer import build_vocabulary
from escdiff_core.pocket.world import Spec, draw_spec, is_reserved, render, reserved_spec, silhouette, training_spec

HELD_OUT = set(shapes.HELD_OUT) | set(patterns.HELD_OUT)


def test_the_world_is_as_large_as_promised():
    assert len(shapes.KNOWN) >= 24 and len(patterns.KNOWN) >= 8 and len(colours.NAMES) >= 12
    assert len(shapes.HELD_OUT) >= 8 and len(patterns.HELD_OUT) >= 4
    assert not set(shapes.KNOWN) & set(shapes.HELD_OUT) and not set(patterns.KNOWN) & set(patterns.HELD_OUT)


def test_a_seed_decides_the_picture():
    a, b = render(training_spec(3, 5)), render(training_spec(3, 5))
    assert a.spec == b.spec and np.array_equal(a.image, b.image) and np.array_equal(a.mask, b.mask)
    assert training_spec(3, 6) != a.spec and training_spec(4, 5) != a.spec


@pytest.mark.parametrize("index", range(12))
def test_the_mask_is_exactly_where_the_picture_differs_from_its_background(index):
    spec = training_spec(1, index)
    picture = render(spec)
    bare = render(replace(spec, centre=(-500.0, -500.0))).image
    changed = np.abs(picture.image - bare).max(-1) > 1e-4
    assert not changed[picture.mask == 0].any()
    # inside, object and background have distinct colours, so every fully covered pixel differs
    assert changed[picture.mask == 1].mean() > 0.99


def test_half_covered_pixels_are_half_mixed():
    spec = Spec("square", "solid", ("black",), "white", rotation=10)
    picture = render(spec)
    expected = colours.rgb("white") * (1 - picture.mask[..., None]) + colours.rgb("black") * picture.mask[..., None]
    assert np.abs(picture.image - expected).max() < 1e-6
    assert ((picture.mask > 0.1) & (picture.mask < 0.9)).any(), "edges are anti-aliased"


@pytest.mark.parametrize("name", shapes.ALL)
def test_every_shape_fills_its_frame_and_can_be_drawn_at_any_size(name):
    spec = Spec(name, "solid", ("red",), "white", radius=48)
    mask = silhouette(spec)
    rows, columns = np.nonzero(mask > 0.5)
    assert 88 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 98
    assert abs(silhouette(spec, 64).mean() - mask.mean()) < 0.01


def test_nothing_held_out_reaches_training():
    rng = np.random.default_rng(0)
    for i in range(1500):
        spec = training_spec(0, i)
        words = set(re.findall(r"[a-z]+", captions.caption(spec, rng))) | {spec.shape, spec.pattern}
        assert not words & HELD_OUT
        assert not is_reserved(spec)
    assert not set(captions.vocabulary()) & HELD_OUT
    whole_words = {t.removesuffix("</w>") for t in build_vocabulary()["vocab"] if t.endswith("</w>")}
    assert not whole_words & HELD_OUT


def test_held_back_prompts_are_known_words_in_combinations_never_trained():
    for i in range(50):
        spec = reserved_spec(0, i)
        assert is_reserved(spec) and spec.shape in shapes.KNOWN and spec.pattern in patterns.KNOWN


def test_captions_leave_things_out_and_say_nothing_wrong():
    spec = Spec("star", "dotted", ("green", "white"), "blue")
    drawn = {captions.caption(spec, np.random.default_rng(i)) for i in range(300)}
    assert "a star" in drawn and "a star shape with green and white dotted appearance" in drawn
    assert len(drawn) > 25
    allowed = set(captions.vocabulary())
    for text in drawn:
        words = set(text.split())
        assert words <= allowed
        assert not words & (set(colours.NAMES) - {"green", "white", "blue"})


def test_colours_of_object_and_background_can_be_told_apart():
    for i in range(300):
        spec = draw_spec(np.random.default_rng(i))
        assert spec.background not in spec.colours
        assert spec.background in colours.distinct_from(spec.colours)


def test_every_word_is_one_token():
    vocabulary = build_vocabulary()
    assert len(vocabulary["vocab"]) == 1024 and sorted(vocabulary["vocab"].values()) == list(range(1024))
    assert all(word + "</w>" in vocabulary["vocab"] for word in captions.vocabulary() if word != "a")


def test_an_unknown_shape_lists_the_known():
    with pytest.raises(ESCDiffError, match=r"unknown shape 'blob'; known: .*anchor.*star"):
        render(Spec("blob", "solid", ("red",), "white"))
