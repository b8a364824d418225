"""References: every common kind of picture is read upright and whole, every bad one gets one sentence."""

import hashlib
import io

import numpy as np
import pytest
import torch
from PIL import Image

from escdiff_core.errors import ESCDiffError
from escdiff_core.reference import Reference, load_reference
from escdiff_core.reference import decode as decode_module
from escdiff_core.reference.photograph import SURE, subject_of
from escdiff_core.reference.picture import fitting_size


def scene(height=96, width=96):
    """A red disc in the upper left on white, uint8 (h, w, 3), and its mask, bool."""
    y, x = np.mgrid[:height, :width]
    disc = (y - 0.4 * height) ** 2 + (x - 0.35 * width) ** 2 < (0.2 * min(height, width)) ** 2
    return np.where(disc[..., None], np.uint8([210, 30, 30]), np.uint8([245, 245, 245])).astype(
        np.uint8
    ), disc


def saved(folder, image, name="a.png", **options):
    path = folder / name
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def centre(mask):
    """The mask's centre of mass (y, x) as shares of its sides."""
    y, x = np.nonzero(mask > 0.5)
    return (y.mean() / mask.shape[0], x.mean() / mask.shape[1])


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_plain_png_finds_its_subject(tmp_path):
    pixels, disc = scene(128, 128)
    reference = load_reference(saved(tmp_path, pixels), native_size=128)
    assert reference.image.dtype == np.float32 and reference.image.shape == (128, 128, 3)
    assert np.array_equal(reference.image, pixels.astype(np.float32) / 255)
    assert reference.mask.dtype == np.float32 and iou(reference.mask > 0.5, disc) > 0.95
    assert "found" in reference.note


def test_no_subject_means_the_whole_picture_and_says_so(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    for pixels in (noise, np.full((96, 96, 3), 128, np.uint8)):
        reference = load_reference(saved(tmp_path, pixels), native_size=128)
        assert reference.mask is None and "the whole picture counts" in reference.note


def test_what_stands_out_of_a_busy_picture_by_chance_is_no_subject(tmp_path):
    pixels, _ = scene(128, 128)
    noise = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    pixels[90:, :] = noise[90:, :]                      # a third of the border is anything but plain
    with pytest.raises(ESCDiffError, match=f"no subject found for sure.*needed {SURE:.2f}.*give a mask"):
        subject_of(pixels)
    reference = load_reference(saved(tmp_path, pixels), native_size=128)
    assert reference.mask is None and "the whole picture counts" in reference.note


def test_mask_none_and_mask_file(tmp_path):
    pixels, disc = scene()
    path = saved(tmp_path, pixels)
    assert load_reference(path, mask="none", native_size=128).mask is None
    mask = saved(tmp_path, (disc * 255).astype(np.uint8), "a.mask.png")
    reference = load_reference(path, mask=mask, native_size=128)
    assert centre(reference.mask) == pytest.approx(centre(disc), abs=0.01)
    assert reference.mask.sum() / reference.mask.size == pytest.approx(disc.mean(), rel=0.02)


def test_alpha_is_the_mask_and_transparent_pixels_turn_white(tmp_path):
    pixels, disc = scene(128, 128)
    hidden = np.where(disc[..., None], pixels, np.uint8(0))  # black lurks under the transparent part
    rgba = np.dstack([hidden, (disc * 255).astype(np.uint8)])
    reference = load_reference(saved(tmp_path, rgba), native_size=128)
    assert np.array_equal(reference.mask, disc.astype(np.float32)) and "transparency" in reference.note
    assert (reference.image[~disc] == 1).all() and np.allclose(reference.image[disc], pixels[disc] / 255)
    other = saved(tmp_path, (~disc * 255).astype(np.uint8), "other.png")
    told = load_reference(tmp_path / "a.png", mask=other, native_size=128)
    assert told.hash == reference.hash and "not used" in told.note


def test_opaque_alpha_counts_as_none(tmp_path):
    pixels, disc = scene(128, 128)
    path = saved(tmp_path, np.dstack([pixels, np.full(disc.shape, 255, np.uint8)]))
    reference = load_reference(path, native_size=128)
    assert "found" in reference.note and reference.hash == Reference.from_arrays(pixels, "auto", 128).hash


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation, tmp_path):
    pixels, disc = scene(128, 192)
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM], 5: [Image.Transpose.TRANSPOSE], 6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE], 8: [Image.Transpose.ROTATE_270]
    }
    image = Image.fromarray(pixels)
    for step in undo.get(orientation, []):
        image = image.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    reference = load_reference(saved(tmp_path, image, "a.jpg", exif=exif, quality=95), native_size=128)
    assert reference.image.shape == (128, 192, 3)
    assert iou(reference.mask > 0.5, disc) > 0.9


def modes():
    pixels, _ = scene(128, 128)
    image = Image.fromarray(pixels)
    grey = np.asarray(image.convert("L"))
    transparent = image.quantize(8, dither=Image.Dither.NONE)
    transparent.info["transparency"] = transparent.getpixel((0, 0))
    return {
        "palette": (image.convert("P"), {}),
        "palette with transparency": (transparent, {}),
        "greyscale": (image.convert("L"), {}),
        "greyscale with alpha": (image.convert("LA"), {}),
        "one bit": (image.convert("1", dither=Image.Dither.NONE), {}),
        "16 bit": (Image.fromarray(grey.astype(np.uint16) * 257), {}),
        "cmyk": (image.convert("CMYK"), {"name": "a.jpg"}),
        "float": (Image.fromarray(grey / np.float32(255)), {"name": "a.tiff"}),
        "webp": (image, {"name": "a.webp", "lossless": True}),
        "gif": (image, {"name": "a.gif"}),
        "bmp": (image, {"name": "a.bmp"}),
        "32 bit": (Image.fromarray(grey.astype(np.int32) * 257), {"name": "a.tiff"}),
    }


@pytest.mark.parametrize("mode", modes())
def test_every_common_mode_is_read(mode, tmp_path):
    image, options = modes()[mode]
    reference = load_reference(saved(tmp_path, image, **options), native_size=128)
    _, disc = scene(128, 128)
    assert reference.image.shape == (128, 128, 3) and 0 <= reference.image.min() <= reference.image.max() <= 1
    inside, outside = reference.image[disc].mean(), reference.image[~disc].mean()
    assert outside > 0.9 and inside < 0.5
    assert reference.mask is not None and iou(reference.mask > 0.5, disc) > 0.9


def test_sixteen_bit_keeps_its_fine_steps(tmp_path):
    ramp = np.tile(np.linspace(0, 65535, 128).astype(np.uint16), (128, 1))
    reference = load_reference(saved(tmp_path, Image.fromarray(ramp)), mask="none", native_size=128)
    assert np.allclose(reference.image[..., 0], ramp / 65535, atol=1e-6)


@pytest.mark.parametrize("native_size", [128, 512, 1024])
@pytest.mark.parametrize(("height", "width"), [(100, 100), (600, 400), (400, 600), (1080, 1920), (1920, 1080),
                                               (300, 400), (500, 400), (1000, 500), (4000, 1000),])
def test_sizes_suit_the_model_and_the_picture(height, width, native_size):
    h, w = fitting_size(height, width, native_size)
    assert h % 64 == w % 64 == 0 and 0.5 < h * w / native_size**2 <= 2
    assert (h > w) == (height > width) or native_size == 128
    assert abs(np.log(w * height / (h * width))) < (0.26 if native_size == 128 else 0.08)


def test_nothing_is_cropped_and_stretching_is_told(tmp_path):
    pixels = np.zeros((200, 300, 3), np.uint8)
    pixels[:, :12], pixels[:, -12:] = (255, 0, 0), (0, 0, 255)
    reference = load_reference(saved(tmp_path, pixels), mask="none", native_size=128)
    assert reference.image.shape == (128, 192, 3) and "stretched" not in reference.note
    assert reference.image[64, 2] == pytest.approx([1, 0, 0], abs=0.05)
    assert reference.image[64, -3] == pytest.approx([0, 0, 1], abs=0.05)
    assert "stretched by 12%" in load_reference(saved(tmp_path, pixels[:, :267]), "none", 128).note


def test_arrays_of_every_kind_are_equal():
    pixels, disc = scene(128, 128)
    unit = pixels.astype(np.float32) / 255
    expected = Reference.from_arrays(pixels, disc, 128)
    same = [(unit, disc.astype(np.float32)), (torch.from_numpy(unit), torch.from_numpy(disc)),
            (unit[None], disc[None]), (pixels.astype(np.uint16) * 257, (disc * 255).astype(np.uint8)),
            (np.dstack([unit, disc]), None), (unit.astype(np.float64), disc[..., None]),]
    for image, mask in same[:-2] + same[-1:]:
        assert Reference.from_arrays(image, mask, 128).hash == expected.hash
    assert np.array_equal(Reference.from_arrays(*same[-2], 128).mask, expected.mask)
    grey = Reference.from_arrays(unit[..., 0], native_size=128)
    assert grey.image.shape == (128, 128, 3) and grey.mask is None


def test_hash_tells_pixels_and_masks_apart():
    pixels, disc = scene(128, 128)
    other = pixels.copy()
    other[0, 0, 0] -= 1
    hashes = {Reference.from_arrays(p, m, 128).hash for p in (pixels, other)
              for m in (None, disc, np.roll(disc, 9, 0))}
    assert len(hashes) == 6 and all(len(h) == hashlib.sha256().digest_size * 2 for h in hashes)


def test_thumbnail_is_a_small_png():
    pixels, _ = scene(300, 200)
    data = Reference.from_arrays(pixels).thumbnail()
    image = Image.open(io.BytesIO(data))
    assert (
        image.format == "PNG" and max(image.size) == 128 and image.height > image.width and len(data) < 50_000
    )


SMALL = np.full((1, 1, 3), 0.5, np.float32)
GOOD = scene()[0]


@pytest.mark.parametrize(("image", "mask", "says"), [
    (SMALL, None, "1×1 pixels; needed: at least 16"),
    (np.full((96, 96, 3), np.nan, np.float32), None, "NaN"),
    (np.full((96, 96, 3), 200.0, np.float32), None, "from 0 to 1"),
    (np.zeros((96, 96, 3), np.int64), None, "dtype int64"),
    (np.zeros((96, 96, 2), np.float32), None, "has shape"),
    (np.zeros((2, 96, 96, 3), np.float32), None, "has shape"),
    (np.zeros((3, 96, 96), np.float32), None, "has shape"),
    (np.zeros((0, 0, 3), np.float32), None, "0×0"),
    (np.zeros((32, 640, 3), np.float32), None, "longer than 4 to 1"),
    (np.array(["a"]), None, "dtype"),
    (GOOD, np.zeros((96, 96)), "is empty"),
    (GOOD, np.ones((96, 96)), "is full"),
    (GOOD, np.ones((50, 60)), "is 60×50 pixels, the picture 96×96"),
    (GOOD, np.full((96, 96), np.nan), "NaN"),
    (GOOD, np.zeros((96, 96, 3)), "has shape"),
    (GOOD, "automatic", "known: auto, none"),
    (np.dstack([GOOD, np.zeros((96, 96), np.uint8)]), None, "is empty"),
])
def test_bad_arrays_get_one_sentence(image, mask, says):
    with pytest.raises(ESCDiffError, match=says) as caught:
        Reference.from_arrays(image, mask, 128)
    assert "\n" not in str(caught.value)


def bad_files(folder):
    good, disc = scene()
    path = saved(folder, good, "good.png")
    data = path.read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "cut.jpg").write_bytes(
        saved(folder, np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8), "n.jpg").read_bytes()[
            :3000
        ]
    )
    (folder / "text.png").write_text("no picture at all")
    (folder / "empty.png").write_bytes(b"")
    (folder / "ps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    saved(folder, np.zeros((1, 1, 3), np.uint8), "dot.png")
    saved(folder, np.zeros((96, 96), np.uint8), "black.png")
    saved(folder, np.full((96, 96), 255, np.uint8), "white.png")
    saved(folder, (disc * 255).astype(np.uint8)[:50], "short.png")
    return path


@pytest.mark.parametrize(
    ("name", "mask", "says"),
    [
        ("missing.png", "auto", "does not exist"),
        (".", "auto", "is not a file"),
        ("cut.png", "auto", "damaged"),
        ("cut.jpg", "auto", "damaged"),
        ("text.png", "auto", "not a picture"),
        ("empty.png", "auto", "not a picture"),
        ("ps.png", "auto", "not a picture"),
        ("dot.png", "auto", "1×1"),
        ("good.png", "black.png", "is empty"),
        ("good.png", "white.png", "is full"),
        ("good.png", "short.png", "96×50"),
        ("good.png", "missing.png", "does not exist"),
        ("good.png", "text.png", "not a picture"),
    ],
)
def test_bad_files_get_one_sentence(name, mask, says, tmp_path):
    bad_files(tmp_path)
    with pytest.raises(ESCDiffError, match=says) as caught:
        load_reference(tmp_path / name, mask if mask == "auto" else tmp_path / mask, 128)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_decompression_bombs_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("1", (12000, 12000)))  # 144 million pixels in 18 kB
    with pytest.raises(ESCDiffError, match="too many pixels"):
        load_reference(path)
    path = saved(tmp_path, np.zeros((400, 400, 3), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)  # far beyond twice the limit Pillow itself refuses
    with pytest.raises(ESCDiffError, match="too many pixels"):
        load_reference(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(decode_module, "MOST_PIXELS", 100_000)
    with pytest.raises(ESCDiffError, match="400×400"):
        load_reference(path)
