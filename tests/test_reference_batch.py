"""Pictures and masks as graphs hand them on: four channels, near-empty masks, stand-ins, the wrong way round,
animations."""

import logging

import numpy as np
import pytest
from PIL import Image

from escdiff_core.errors import ESCDiffError
from escdiff_core.reference import load_reference
from escdiff_core.reference.batch import references_of, subject_of


def scene(ground=(1.0, 1.0, 1.0), size=128):
    """A red disc on a plain ground, float32 (h, w, 3), and where it is, float32 (h, w)."""
    y, x = np.mgrid[:size, :size]
    disc = (y - size / 2) ** 2 + (x - size / 2) ** 2 < (size / 4) ** 2
    return np.where(disc[..., None], (0.8, 0.2, 0.2), ground).astype(np.float32), disc.astype(np.float32)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_a_fourth_channel_is_the_mask(count, masked, caplog):
    picture, disc = scene()
    batch = np.stack([np.dstack([picture, disc])] * count)
    made = references_of(batch, (1 - disc)[None] if masked else None, 128)
    assert len(made) == count and all(np.array_equal(r.mask, disc) for r in made)
    assert ("the given mask is not used" in caplog.text) == masked
    assert np.array_equal(subject_of(batch[0], disc if masked else None, "it")[1], disc)


@pytest.mark.parametrize("mask", [np.zeros((64, 64)), np.zeros((128, 128)), np.full((128, 128), 0.00392)])
def test_a_mask_that_is_nearly_empty_is_none(mask):
    picture, _ = scene()
    plain = references_of(picture[None], None, 128)[0]
    assert references_of(picture[None], mask.astype(np.float32)[None], 128)[0].hash == plain.hash
    assert subject_of(picture, mask.astype(np.float32), "it")[1] is None


def test_nearly_opaque_counts_as_opaque():
    picture, _ = scene()
    nearly = np.dstack([picture, np.full((128, 128), 0.99608, np.float32)])
    assert references_of(nearly[None], None, 128)[0].hash == references_of(picture[None], None, 128)[0].hash


def test_the_stand_in_of_a_picture_without_transparency_inverted_is_no_mask_and_is_told(caplog):
    picture, _ = scene()
    ones = np.ones((64, 64), np.float32)
    assert (
        references_of(picture[None], ones[None], 128)[0].hash
        == references_of(picture[None], None, 128)[0].hash
    )
    assert "take InvertMask and the mask away" in caplog.text
    caplog.clear()
    assert subject_of(picture, ones, "the shape reference")[1] is None
    assert "the mask of the shape reference is the one that Load Image gives" in caplog.text


@pytest.mark.parametrize(
    "look", [lambda p, m: references_of(p[None], m[None], 128), lambda p, m: subject_of(p, m, "it")]
)
def test_masks_that_cannot_be_meant_are_refused_everywhere(look):
    picture, disc = scene()
    for mask, says in ((1 - disc, "marks the border all round"), (np.ones_like(disc), "is full"),
                       (disc[:64], "give a mask of the picture's size")):
        with pytest.raises(ESCDiffError, match=says) as caught:
            look(picture, mask)
    with pytest.raises(ESCDiffError) as caught:
        look(picture, 1 - disc)
    assert "put InvertMask in between" in caught.value.told("node")
    assert "invert the mask picture" in caught.value.told("command")


def test_the_command_refuses_a_mask_the_wrong_way_round(tmp_path):
    picture, disc = scene()
    Image.fromarray((picture * 255).astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(((1 - disc) * 255).astype(np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(ESCDiffError, match="marks the border all round"):
        load_reference(tmp_path / "a.png", tmp_path / "m.png", 128)


@pytest.mark.parametrize(("ground", "shown"), [((0.0, 0.0, 0.0), 1.0), ((0.2, 0.6, 0.4), None)])
def test_the_ground_under_transparency_is_the_same_at_the_command_and_in_a_graph(ground, shown, tmp_path):
    picture, disc = scene(ground)
    pixels = (picture * 255).round().astype(np.uint8)
    Image.fromarray(np.dstack([pixels, (disc * 255).astype(np.uint8)])).save(tmp_path / "a.png")
    command = load_reference(tmp_path / "a.png", native_size=128)
    # Load Image, its MASK inverted
    graph = references_of((pixels / np.float32(255))[None], disc[None], 128)[0]
    assert command.hash == graph.hash
    assert np.allclose(graph.image[0, 0], ground if shown is None else shown, atol=0.01)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_the_first_frame_of_an_animation_is_used_and_told(name, tmp_path, caplog):
    picture, _ = scene()
    frames = [Image.fromarray((p * 255).astype(np.uint8)) for p in (picture, picture[::-1, :, ::-1])]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=100)
    first = load_reference(tmp_path / name, "none", 128)
    assert f"{name} has 2 frames; the first is used" in caplog.text
    assert abs(first.image - picture).max() < 0.4 and first.image.shape == (128, 128, 3)


def test_frames_of_a_batch_are_told_and_share_no_mask(caplog):
    picture, disc = scene()
    batch = np.stack([picture, np.roll(picture, 20, axis=1)])
    with pytest.raises(ESCDiffError, match=r"one mask for 2 different pictures.*frames of an animation"):
        references_of(batch, disc[None], 128)
    with caplog.at_level(logging.WARNING):
        assert len(references_of(batch, None, 128)) == 2
    assert "all 2 pictures are learned as one thing, the frames of an animation too" in caplog.text
    caplog.clear()
    assert len(references_of(np.stack([picture] * 2), disc[None], 128)) == 2
    assert "learned as one thing" not in caplog.text
