"""The pocket world: deterministic, exact masks, and nothing held out in any caption or training draw."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from escdiff_core.errors import ESCDiffError
from escdiff_core.worlds.pocket import captions, colours, icons, patterns, shapes
from escdiff_core.worlds.pocket.grain import Grain
from escdiff_core.worlds.pocket.group_norm import FastGroupNorm
from escdiff_core.worlds.pocket.muon import Muon
from escdiff_core.worlds.pocket.swatches import swatch
from escdiff_core.worlds.pocket.tokenizer import build_vocabulary
from escdiff_core.worlds.pocket.world import (
    Spec,
    draw_spec,
    is_reserved,
    render,
    reserved_spec,
    silhouette,
    training_spec,
)

HELD_OUT = set(shapes.HELD_OUT) | set(patterns.HELD_OUT)


def test_the_world_is_as_large_as_promised():
    assert (
        len(shapes.KNOWN) >= 24
        and len(patterns.KNOWN) >= 24
        and len(icons.names()) >= 150
        and len(colours.NAMES) >= 12
    )
    assert len(shapes.HELD_OUT) >= 15 and len(patterns.HELD_OUT) >= 10
    assert not set(shapes.KNOWN) & set(shapes.HELD_OUT) and not set(patterns.KNOWN) & set(patterns.HELD_OUT)


def test_a_swatch_is_all_surface():
    drawn = [swatch(np.random.default_rng(i)) for i in range(12)]
    assert all(
        d.shape == (128, 128, 3) and d.dtype == np.float32 and d.min() >= 0 and d.max() <= 1 for d in drawn
    )
    assert np.array_equal(drawn[3], swatch(np.random.default_rng(3))) and not np.array_equal(
        drawn[3], drawn[4]
    )
    blocks = np.stack(drawn).reshape(12, 4, 32, 4, 32, 3)
    busy = blocks.std((2, 4)).max(-1) > 0.01
    assert busy.mean() > 0.95, "plain ground in a swatch"


def test_a_seed_decides_the_picture():
    a, b = render(training_spec(3, 5)), render(training_spec(3, 5))
    assert a.spec == b.spec and np.array_equal(a.image, b.image) and np.array_equal(a.mask, b.mask)
    assert training_spec(3, 6) != a.spec and training_spec(4, 5) != a.spec


@pytest.mark.parametrize("index", range(12))
def test_the_mask_is_exactly_where_the_picture_differs_from_its_background(index):
    spec = replace(training_spec(1, index), shadow=0.0)
    picture = render(spec)
    bare = render(replace(spec, centre=(-500.0, -500.0))).image
    changed = np.abs(picture.image - bare).max(-1) > 1e-4
    assert not changed[picture.mask == 0].any()
    # inside, object and background have distinct colours, so every fully covered pixel differs
    assert changed[picture.mask == 1].mean() > 0.99


def test_half_covered_pixels_are_half_mixed():
    spec = Spec("square", "solid", ("black",), "white", rotation=10)
    picture = render(spec)
    expected = (
        colours.rgb("white") * (1 - picture.mask[..., None]) + colours.rgb("black") * picture.mask[..., None]
    )
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
    assert len(vocabulary["vocab"]) == 1280 and sorted(vocabulary["vocab"].values()) == list(range(1280))
    assert all(word + "</w>" in vocabulary["vocab"] for word in captions.vocabulary() if word != "a")


def test_an_unknown_shape_lists_the_known():
    with pytest.raises(ESCDiffError, match=r"unknown shape 'blob'; known: .*anchor.*star"):
        render(Spec("blob", "solid", ("red",), "white"))


def test_icons_are_names_only_and_hold_nothing_out():
    assert not set(icons.names()) & HELD_OUT and not set(icons.names()) & set(shapes.KNOWN)
    assert len(set(icons.NAMES)) == len(icons.NAMES)


@pytest.mark.parametrize("name", colours.NAMES)
def test_a_name_is_a_region_of_colour(name):
    drawn = np.stack([colours.paint(name, tint) for tint in range(1, 200)])
    middles = colours.to_lab(np.stack([colours.rgb(n) for n in colours.NAMES]))
    nearest = np.linalg.norm(colours.to_lab(drawn)[:, None] - middles, axis=-1).argmin(1)
    assert (nearest == colours.NAMES.index(name)).mean() > 0.97
    assert np.abs(drawn - drawn.mean(0)).max() > 0.1, "any colour of the region occurs"
    assert np.array_equal(colours.paint(name), colours.rgb(name)), "tint 0 is the middle"


@pytest.mark.parametrize("name", patterns.ALL)
def test_a_surface_is_the_same_at_any_size_and_of_both_colours(name):
    spec = Spec("square", name, ("red", "white", "blue")[:3 if name in patterns.THREE_COLOURED else 2],
                "gray", radius=62, period=20.0, grain=7)
    large, small = (render(spec, size).image for size in (256, 128))
    halved = large.reshape(128, 2, 128, 2, 3).mean((1, 3))
    assert np.abs(halved - small).mean() < 0.035
    spread = small[30:98, 30:98].std((0, 1)).max()
    assert (spread < 1e-3) if name == "solid" else (spread > 0.08)


def test_chance_in_a_surface_is_decided_by_its_grain():
    spec = Spec("square", "spotted", ("red", "white"), "gray", grain=3)
    assert np.array_equal(render(spec).image, render(spec).image)
    assert np.abs(render(spec).image - render(replace(spec, grain=4)).image).mean() > 0.05
    assert Grain(0).vary(2, 4) == 3 and 2 <= Grain(5).vary(2, 4) <= 4 and Grain(5).vary(
        2, 4) != Grain(6).vary(2, 4)


def test_shadow_and_texture_are_named_where_they_are_drawn():
    spec = Spec("star", "dotted", ("green", "white"), "blue", shadow=0.5, rough=0.2)
    assert captions.full_caption(spec) == (
        "a photo of a green and white dotted star on a textured blue background with a shadow"
    )
    plain = render(replace(spec, shadow=0.0, rough=0.0))
    outside = plain.mask == 0
    assert np.abs(render(spec).image - plain.image)[outside].mean() > 0.02


def test_muon_in_batches_takes_torch_s_own_steps():
    torch.manual_seed(0)
    sizes = ((8, 20), (8, 20), (30, 4), (5, 5))
    drawn = [torch.randn(s) for s in sizes]
    ours, theirs = ([torch.nn.Parameter(m.clone()) for m in drawn] for _ in range(2))
    a = Muon(ours, lr=0.01, weight_decay=0.05)
    b = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for x, y in zip(ours, theirs, strict=True):
            x.grad = torch.randn_like(x)
            y.grad = x.grad.clone()
        a.step()
        b.step()
    for x, y in zip(ours, theirs, strict=True):
        assert torch.allclose(x, y, atol=2e-4)


def test_the_fast_group_norm_is_torch_s_own():
    torch.manual_seed(0)
    norm = torch.nn.GroupNorm(8, 32)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 32, 6,
                    5).mul(2).add(0.5).contiguous(memory_format=torch.channels_last).requires_grad_()
    seen = []
    for kind in (torch.nn.GroupNorm, FastGroupNorm):
        norm.__class__, x.grad, norm.weight.grad, norm.bias.grad = kind, None, None, None
        y = norm(x)
        y.sin().sum().backward()
        seen.append([y.detach(), x.grad.clone(), norm.weight.grad.clone(), norm.bias.grad.clone()])
    for a, b in zip(*seen, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
