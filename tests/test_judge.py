"""The judge, judged: on pictures the world draws, and on the same blurred, noisy and a little off in
colour."""

import sys
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from escdiff_core.errors import ESCDiffError
from escdiff_core.metrics import scores
from escdiff_core.metrics.appearance import appearance_of, colour_distance
from escdiff_core.metrics.comparison import appearance_again, shape_again
from escdiff_core.metrics.prompt_check import PARTS, check
from escdiff_core.metrics.reading import read
from escdiff_core.metrics.scores import Judge, Scale, Score
from escdiff_core.metrics.shape import align, aligned_iou, boundary_f_score
from escdiff_core.metrics.texture import texture_distance
from escdiff_core.reference.subject import find_subject, object_mask
from escdiff_core.worlds.pocket import patterns, shapes
from escdiff_core.worlds.pocket.world import Spec, draw_spec, render, reserved_spec, silhouette

sys.path.append(str(Path(__file__).parent.parent / "benchmarks" / "outside"))
import changes

FRESH = 7    # a seed the judge's own comparison pictures do not use


def degrade(image, rng):
    """What a small decoder does to a picture: blur of 1 pixel, noise of 0.02, colours a little off."""
    image = ndimage.gaussian_filter(image, (1, 1, 0)) * (1 + rng.normal(0, 0.03, 3)) + rng.normal(0, 0.015, 3)
    return np.clip(image + rng.normal(0, 0.02, image.shape), 0, 1).astype(np.float32)


def drawn(specs, degraded=False):
    rng = np.random.default_rng(0)
    return [degrade(render(spec).image, rng) if degraded else render(spec).image for spec in specs]


def flattened(picture):
    """The same picture with the subject in its mean colour."""
    cover = picture.mask[..., None]
    return picture.image * (1 - cover) + cover * (picture.image * cover).sum((0, 1)) / cover.sum()


def plain_iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize(("degraded", "mean", "worst"), [(False, 0.985, 0.93), (True, 0.975, 0.90)])
def test_mask_is_found(degraded, mean, worst):
    specs = [reserved_spec(FRESH, i) for i in range(30)]
    found = [plain_iou(object_mask(image), silhouette(spec) > 0.5)
             for image, spec in zip(drawn(specs, degraded), specs, strict=True)]
    assert np.mean(found) > mean and min(found) > worst


def test_mask_keeps_holes_and_bears_a_subject_at_the_border():
    ring = Spec("ring", "striped", ("red", "white"), "blue", radius=50, grade=(0.1, -0.1))
    assert not object_mask(render(ring).image)[64, 64]
    cut = replace(ring, shape="cat", centre=(84.0, 64.0))
    assert plain_iou(object_mask(render(cut).image), silhouette(cut) > 0.5) > 0.95


def test_mask_at_any_size():
    picture = render(Spec("heart", "solid", ("red",), "white"))
    image = np.kron(picture.image, np.ones((3, 3, 1), np.float32))[:, 30:]
    mask = np.kron(picture.mask, np.ones((3, 3)))[:, 30:] > 0.5
    assert plain_iou(object_mask(image), mask) > 0.97


@pytest.mark.parametrize(("image", "words"), [
    (np.full((64, 64, 3), 0.4), "nothing stands out"),
    (np.random.default_rng(0).random((96, 96, 3)), "no plain background"),
    (np.full((64, 64, 3), np.nan), "NaN"),
    (np.zeros((64, 64)), "RGB"),
    (np.zeros((1, 1, 3)), "at least 8 pixels"),
], ids=["empty", "noise", "nan", "gray", "tiny"])
def test_no_subject_is_one_sentence(image, words):
    with pytest.raises(ESCDiffError, match=words):
        find_subject(image)


@pytest.mark.parametrize("name", list(shapes.ALL))
def test_a_shape_aligns_with_itself_and_no_other(name):
    rng = np.random.default_rng(3)
    here, there = (silhouette(draw_spec(rng, shape=name)) for _ in range(2))
    fit = align(here, there)
    assert fit.iou > 0.92 and fit.boundary_f > 0.95
    other = "star" if name != "star" else "house"
    assert aligned_iou(here, silhouette(draw_spec(rng, shape=other))) < fit.iou - 0.1


def test_alignment_undoes_the_motion_and_is_bounded():
    base = Spec("boot", "solid", ("red",), "white", radius=40)
    assert (
        aligned_iou(silhouette(base), silhouette(replace(base, rotation=18, radius=54, centre=(70, 60))))
        > 0.95
    )
    assert aligned_iou(silhouette(base), silhouette(replace(base, rotation=90))) < 0.85
    with pytest.raises(ESCDiffError, match="empty"):
        aligned_iou(silhouette(base), np.zeros((128, 128)))


def test_boundary_f_score():
    mask = silhouette(Spec("star", "solid", ("red",), "white")) > 0.5
    assert boundary_f_score(mask, mask) == 1.0
    assert boundary_f_score(mask, np.roll(mask, 12, 0)) < 0.5
    assert boundary_f_score(mask, np.zeros_like(mask)) == 0.0


# never twice the same, so that a part is no whole
IRREGULAR = ("spotted", "wooden", "marbled", "camouflaged", "tiled")


@cache
def texture(spec: Spec):
    """The texture of a picture of ``spec``: each pattern is compared with all the others."""
    picture = render(spec)
    return appearance_of(picture.image, picture.mask > 0.5).texture


@pytest.mark.parametrize("pattern", list(patterns.ALL))
def test_texture_knows_the_pattern_and_forgets_phase_turn_shape_and_colour(pattern):
    base = Spec("square", pattern, ("red", "white")[: 1 if pattern == "solid" else 2], "teal", radius=50)
    turned = replace(base, shape="heart", pattern_angle=100.0, phase=(3.0, -2.0), background="black",
                     colours=("yellow", "blue")[: len(base.colours)])
    own = texture_distance(texture(base), texture(turned))
    others = [texture_distance(texture(base), texture(replace(base, pattern=name, colours=("red", "white"))))
              for name in patterns.ALL if name not in (pattern, "solid")]
    repeats = pattern not in IRREGULAR
    assert own < 0.2 and own < np.mean(others) * (0.5 if repeats else 0.6)
    if pattern not in ("solid", "gradient", "halved", "rayed"):     # these have no period
        assert (
            texture_distance(texture(base), texture(replace(base, period=40.0)))
            > (2 if repeats else 1.3) * own
        )


def test_colour_distance_sees_colours_only():
    def pixels(spec):
        picture = render(spec)
        return appearance_of(picture.image, picture.mask > 0.5).colours
    base = Spec("square", "striped", ("red", "white"), "teal", radius=50)
    again = colour_distance(pixels(base), pixels(replace(base, pattern="checkered", shape="cat")))
    assert again < 8 < 25 < colour_distance(pixels(base), pixels(replace(base, colours=("green", "purple"))))


REFERENCES = [
    draw_spec(np.random.default_rng(FRESH + i), shape, pattern)
    for i, (shape, pattern) in enumerate(
        [
            ("butterfly", "wavy"),
            ("cat", "bricked"),
            ("boot", "diamonded"),
            ("vase", "rayed"),
            ("whale", "dotted"),
        ]
    )
]


@pytest.fixture(scope="module", params=REFERENCES, ids=lambda spec: f"{spec.shape}-{spec.pattern}")
def reference(request):
    return request.param, Judge.of_spec(request.param)


@pytest.mark.parametrize("degraded", [False, True], ids=["clean", "degraded"])
def test_shape_and_appearance_are_told_apart(reference, degraded):
    spec, judge = reference
    same_shape = scores.attribute_scores("shape", drawn(shape_again(spec, 12, FRESH), degraded), judge)
    same_look = scores.attribute_scores(
        "appearance", drawn(appearance_again(spec, 12, FRESH), degraded), judge
    )
    assert same_shape.fidelity > 0.85 and same_shape.leak < 0.25
    assert same_look.fidelity > 0.75 and same_look.leak < 0.25


def test_unrelated_pictures_score_nothing(reference):
    _, judge = reference
    seen = scores.readings(drawn([reserved_spec(FRESH, i) for i in range(24)]))
    assert abs(np.mean(judge.shape(seen).raw)) < 0.2
    assert abs(np.mean(judge.appearance(seen).raw)) < 0.2


def test_flat_mean_colour_scores_low(reference):
    spec, judge = reference
    flat = flattened(render(spec))
    assert judge.appearance(flat).mean < 0.3
    assert judge.shape(flat).mean > 0.9


def test_right_colours_in_a_wrong_pattern_are_wrong(reference):
    spec, judge = reference
    others = [name for name in patterns.ALL if name not in (spec.pattern, "solid")]
    looks = appearance_again(spec, len(others), FRESH)
    wrong = drawn([replace(look, pattern=name) for look, name in zip(looks, others, strict=True)])
    assert judge.appearance(wrong).mean <= 0.4


def test_the_right_pattern_in_wrong_colours_is_wrong(reference):
    spec, judge = reference
    rng = np.random.default_rng(FRESH)
    specs = [replace(draw_spec(rng, pattern=spec.pattern), period=spec.period) for _ in range(40)]
    wrong = drawn([other for other in specs if not set(other.colours) & set(spec.colours)][:10])
    assert judge.appearance(wrong).mean <= 0.3


def test_the_worse_of_colours_and_pattern_decides():
    scale = Scale(0.5, 0.9, colour_floor=30.0, texture_floor=0.2, colour_ceiling=3.0, texture_ceiling=0.02,
                  distance_ceiling=0.1)
    assert scale.distance(15, 0.0) == scale.distance(15, 0.1) == scale.distance(0, 0.1) == 0.5
    assert scale.distance(3, 5.0) == scale.distance(300, 0.01) == 1.0


LOOKS = changes.LOOKS


@pytest.fixture(scope="module", params=["bricks", "leopard", "houndstooth", "basket", "fine spots"])
def elsewhere(request):
    """A surface from elsewhere: its judge, more of it, and the silhouettes to read that on."""
    rng = np.random.default_rng(FRESH)
    masks = [changes.blob(rng) for _ in range(4)]
    looks = [changes.lit(LOOKS[request.param](rng), rng) for _ in masks]
    judge = Judge.of_picture(LOOKS[request.param](rng), changes.blob(rng))
    return request.param, lambda images: judge.appearance(
        [read(image, mask) for image, mask in zip(images, masks, strict=True)]).mean, looks


def test_a_surface_from_elsewhere_is_known_again_and_no_other(elsewhere):
    _, score, looks = elsewhere
    rng = np.random.default_rng(FRESH + 1)
    others = [LOOKS[other](rng) for other in ("scales", "terrazzo", "wood", "large spots")]
    recoloured = changes.recoloured
    assert score(looks) >= 0.9
    assert score([recoloured(look, other) for look, other in zip(looks, others, strict=True)]) <= 0.5
    assert score([recoloured(other, look) for look, other in zip(looks, others, strict=True)]) <= 0.5
    assert score([changes.faded(look, 1) for look in looks]) <= 0.1


@pytest.mark.parametrize("change", list(changes.SERIES))
def test_more_change_is_never_better(elsewhere, change):
    _, score, looks = elsewhere
    make, levels = changes.SERIES[change]
    found = [score([make(look, level) for look in looks]) for level in levels]
    assert found[0] >= 0.9 and found[-1] <= 0.6
    assert all(more <= less + 0.1 for less, more in pairwise(found)), found


def test_a_picture_without_specification():
    picture = render(REFERENCES[0])
    judge = Judge.of_picture(picture.image, picture.mask)
    shape = scores.attribute_scores("shape", drawn(shape_again(REFERENCES[0], 6, FRESH)), judge)
    look = scores.attribute_scores("appearance", drawn(appearance_again(REFERENCES[0], 6, FRESH)), judge)
    assert shape.fidelity > 0.9 and shape.leak < 0.3 and look.fidelity > 0.8 and look.leak < 0.3
    with pytest.raises(ESCDiffError, match="plain background"):
        Judge.of_picture(np.random.default_rng(0).random((96, 96, 3)))


def test_means_and_empty_samples():
    judge = Judge.of_spec(REFERENCES[0])
    blank = np.full((128, 128, 3), 0.5, np.float32)
    assert judge.shape([blank]).raw == (0.0,) and judge.appearance(blank).mean == 0.0
    assert (
        Score((-0.5, 0.5)).mean == 0.0 and Score((-0.5, 1.5)).values == (0.0, 1.0) and Score(()).mean == 0.0
    )
    assert scores.harmonic_mean(0.5, 1.0, 1.0) == pytest.approx(0.75) and scores.harmonic_mean(0.0, 1, 1) == 0
    mix = scores.mix_scores([render(REFERENCES[0]).image], judge, judge, prompt=1.0)
    assert mix.harmonic > 0.9
    with pytest.raises(ESCDiffError, match="appearance, shape"):
        scores.attribute_scores("style", [blank], judge)


@pytest.mark.parametrize(("degraded", "least"), [(False, 0.95), (True, 0.85)], ids=["clean", "degraded"])
def test_prompt_check_accepts_what_was_asked_for(degraded, least):
    specs = [reserved_spec(FRESH, i) for i in range(50)]
    results = [check(image, spec) for image, spec in zip(drawn(specs, degraded), specs, strict=True)]
    for part in PARTS:
        assert np.mean([getattr(result, part) for result in results]) >= least, part


def test_prompt_check_refuses_what_was_not():
    specs = [reserved_spec(FRESH, i) for i in range(16)]
    others = [reserved_spec(FRESH + 1, i) for i in range(16)]
    for spec, other, image in zip(specs, others, drawn(specs, True), strict=True):
        result = check(image, other)
        assert not (result.background and spec.background != other.background)
        assert not (result.colours and set(spec.colours) != set(other.colours))
        assert not (result.shape and spec.shape != other.shape)
        assert not (result.pattern and spec.pattern != other.pattern)


@pytest.mark.parametrize(("shape", "pattern"), [("anchor", "wavy"), ("bone", "rayed"), ("rabbit", "bricked"),
                                                ("hammer", "diamonded")])
def test_prompt_check_takes_held_out_names(shape, pattern):
    spec = replace(draw_spec(np.random.default_rng(1), shape, pattern), radius=50.0)
    result = check(render(spec).image, spec, what=("shape", "pattern"))
    assert result.shape and result.pattern and result.background is None and result.passed()


def test_prompt_share_and_bad_requests():
    spec = reserved_spec(FRESH, 0)
    image, blank = render(spec).image, np.full((128, 128, 3), 0.5, np.float32)
    assert scores.prompt_share([image, blank], spec) == 0.5
    assert not check(blank, spec).passed()
    with pytest.raises(ESCDiffError, match="part of a prompt"):
        check(image, spec, what=("size",))
