"""Masks by a network in an ONNX file: small ones, made here, that answer as trained ones do."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from escdiff_core import extras
from escdiff_core.cli import main
from escdiff_core.errors import ESCDiffError
from escdiff_core.reference import background_removal, load_reference
from escdiff_core.reference.background_removal import NORMS, mask_by_network

RED = 64, 16, 112, 96       # left, top, right, bottom of a red subject


def network(path, side=None, steep=40.0, norm=0, logits=False, half=False):
    """A network that takes red for the subject: what a pixel's red is above its blue, made steep. It was
    "trained" on pictures normalised as ``norm`` of NORMS says, and sees next to nothing in others."""
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    mean, deviation = NORMS[norm]
    scale = np.array([deviation[0], 0, -deviation[2]]).reshape(1, 3, 1, 1)
    offset = float(mean[0] - mean[2] - 0.35)        # red less blue, as it was before it was normalised
    dtype = np.float16 if half else np.float32
    constants = [
        onnx.numpy_helper.from_array(np.asarray(value, dtype), name)
        for name, value in (("kernel", scale), ("offset", offset), ("steep", steep))
    ]
    nodes = [helper.make_node("Conv", ["x", "kernel"], ["difference"]),
             helper.make_node("Add", ["difference", "offset"], ["above"]),
             helper.make_node("Mul", ["above", "steep"], ["y" if logits else "scaled"])]
    nodes += [] if logits else [helper.make_node("Sigmoid", ["scaled"], ["y"])]
    size = [side or "height", side or "width"]
    graph = helper.make_graph(
        nodes, "red", [helper.make_tensor_value_info("x", kind, [1, 3, *size])],
        [helper.make_tensor_value_info("y", kind, [1, 1, *size])], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.fixture
def photograph(tmp_path):
    """A red thing on a ground that is not plain."""
    rng = np.random.default_rng(0)
    pixels = (rng.random((128, 160, 3)) * [60, 255, 60] + [0, 0, 120]).astype(np.uint8)
    pixels[RED[1]:RED[3], RED[0]:RED[2]] = (220, 30, 20)
    path = tmp_path / "photograph.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(background_removal, "SIDE", 96)


def iou_with_red(mask):
    wanted = np.zeros(mask.shape, bool)
    wanted[RED[1]:RED[3], RED[0]:RED[2]] = True
    return ((mask > 0.5) & wanted).sum() / ((mask > 0.5) | wanted).sum()


@pytest.mark.parametrize("given", [
    {"side": 64}, {}, {"norm": 1}, {"side": 64, "logits": True}, {"side": 64, "half": True}
], ids=["of a fixed size", "of any size", "as ISNet was trained", "that answers with logits", "in halves"])
def test_the_subject_is_what_the_network_says(photograph, tmp_path, given):
    picture = np.asarray(Image.open(photograph), np.float32) / 255
    mask = mask_by_network(picture, network(tmp_path / "red.onnx", **given))
    assert mask.shape == picture.shape[:2] and mask.dtype == np.float32
    assert 0 <= mask.min() <= mask.max() <= 1
    assert iou_with_red(mask) > 0.9


def test_a_reference_is_masked_by_it_where_no_subject_could_be_found(photograph, tmp_path):
    file = network(tmp_path / "red.onnx", side=64)
    assert load_reference(photograph, native_size=128).mask is None
    reference = load_reference(photograph, file, native_size=128)
    assert reference.mask.mean() == pytest.approx(48 * 80 / (128 * 160), rel=0.1)
    cut_out = Image.open(photograph).convert("RGBA")
    cut_out.putalpha(Image.fromarray(np.pad(np.full((40, 40), 255, np.uint8), ((0, 88), (0, 120)))))
    cut_out.save(photograph)
    seen = load_reference(photograph, tmp_path / "missing.onnx", native_size=128)
    assert "transparency" in seen.note, "its own transparency comes first, and the network is not asked"


@pytest.mark.parametrize("wrong, sentence", [
    ("missing", "does not exist; give an ONNX file"), ("no network", "is no ONNX file that can be read"),
    ("blind", "found no subject"), ("vague", "is not sure where the subject ends"),
    ("of words", "does not take a picture"), ("of numbers", "and no mask"),
])
def test_what_cannot_give_a_mask_is_one_sentence(photograph, tmp_path, wrong, sentence):
    file = tmp_path / "given.onnx"
    if wrong == "no network":
        file.write_bytes(b"nothing")
    elif wrong in ("blind", "vague"):
        network(file, 64, steep={"blind": 0.0, "vague": 1.0}[wrong])
    elif wrong in ("of words", "of numbers"):
        words = wrong == "of words"
        node = helper.make_node("Identity" if words else "GlobalAveragePool", ["x"], ["y"])
        shape = [1, 77] if words else [1, 3, 64, 64]
        ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, of)] for name, of in
                (("x", shape), ("y", None))]
        graph = helper.make_graph([node], "other", *ends)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), file)
    with pytest.raises(ESCDiffError, match=sentence) as raised:
        load_reference(photograph, file, native_size=128)
    assert "\n" not in str(raised.value) and str(file) in str(raised.value)


def test_without_its_package_it_is_named(photograph, tmp_path, monkeypatch):
    file = network(tmp_path / "other.onnx", side=64)
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ESCDiffError, match="needs the Python package onnxruntime"):
        load_reference(photograph, file, native_size=128)


def test_one_network_is_enough_for_several_pictures(photograph, checkpoint, tmp_path, capsys):
    file = network(tmp_path / "red.onnx", side=64)
    command = ["learn", "--kind", "shape", "--reference", photograph, photograph, "--mask", file, "--model",
               checkpoint, "--device", "cpu", "--steps", 1, "--batch-size", 1, "--out",
               tmp_path / "a.safetensors"]
    assert main([str(word) for word in command]) == 0, capsys.readouterr().err
    assert (tmp_path / "a.safetensors").is_file()
