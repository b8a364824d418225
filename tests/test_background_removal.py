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

RED = 64, 16, 112, 96       # left, top, right, bottom of a subject
SUBJECT = 220               # how red it is


def network(path, size=None, steep=40.0, norm=0, ends=("Sigmoid",), gain=1.0, half=False):
    """A network that takes for the subject what is as red as the subject is, in pictures normalised as
    ``norm`` of NORMS says; in others that is another number, and it sees nothing."""
    kind, dtype = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
    mean, deviation = NORMS[norm]
    wanted, near = (SUBJECT / 255 - mean[0]) / deviation[0], 0.3 * 0.229 / deviation[0]
    values = {"kernel": np.reshape([1, 0, 0], (1, 3, 1, 1)), "wanted": wanted, "near": near, "steep": steep,
              "gain": gain}
    constants = [onnx.numpy_helper.from_array(np.asarray(v, dtype), name) for name, v in values.items()]
    nodes, last = [], "x"
    for kind_of, *more in (("Conv", "kernel"), ("Sub", "wanted"), ("Abs",), ("Neg",), ("Add", "near"),
                           ("Mul", "steep"), *((end,) for end in ends), ("Mul", "gain")):
        nodes.append(helper.make_node(kind_of, [last, *more], [f"after {len(nodes)}"]))
        last = nodes[-1].output[0]
    height, width = size or ("height", "width")
    graph = helper.make_graph(
        nodes, "red", [helper.make_tensor_value_info("x", kind, [1, 3, height, width])],
        [helper.make_tensor_value_info(last, kind, [1, 1, height, width])], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.fixture
def photograph(tmp_path):
    """A red thing on a ground that is not plain."""
    rng = np.random.default_rng(0)
    pixels = (rng.random((128, 160, 3)) * [60, 255, 60] + [0, 0, 120]).astype(np.uint8)
    pixels[RED[1]:RED[3], RED[0]:RED[2]] = (SUBJECT, 30, 20)
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
    {"size": (64, 64)}, {}, {"size": (64, 96)}, {"norm": 1}, {"norm": 2}, {"size": (64, 64), "ends": ()},
    {"size": (64, 64), "half": True}, {"gain": 1.001},
], ids=["of a fixed size", "of any size", "not square", "trained as ISNet", "trained as MODNet", "logits",
        "in halves", "a hair above 1"])
def test_the_subject_is_what_the_network_says(photograph, tmp_path, given):
    picture = np.asarray(Image.open(photograph), np.float32) / 255
    mask, sure = mask_by_network(picture, network(tmp_path / "red.onnx", **given))
    assert mask.shape == picture.shape[:2] and mask.dtype == np.float32
    assert 0 <= mask.min() <= mask.max() <= 1 and 0.65 <= sure <= 1
    assert iou_with_red(mask) > 0.85


def test_a_reference_is_masked_by_it_where_no_subject_could_be_found(photograph, tmp_path):
    file = network(tmp_path / "red.onnx", (64, 64))
    assert load_reference(photograph, native_size=128).mask is None
    reference = load_reference(photograph, file, native_size=128)
    assert reference.mask.mean() == pytest.approx(48 * 80 / (128 * 160), rel=0.15)
    assert reference.note.startswith(f"the network {file} gave the mask (confidence ")
    cut_out = Image.open(photograph).convert("RGBA")
    cut_out.putalpha(Image.fromarray(np.pad(np.full((40, 40), 255, np.uint8), ((0, 88), (0, 120)))))
    cut_out.save(photograph)
    seen = load_reference(photograph, tmp_path / "missing.onnx", native_size=128)
    assert seen.note.startswith("the picture's transparency is the mask; the given mask is not used")


@pytest.mark.parametrize("wrong, sentence", [
    ("missing", "is not there, or no file; give an ONNX file"),
    ("no network", "is no ONNX file that can be read"),
    ("blind", "found no subject"), ("vague", "is not sure where the subject ends"),
    ("of words", "does not take a picture"), ("of numbers", "and no mask"), ("broken", "NaN or infinite"),
])
def test_what_cannot_give_a_mask_is_one_sentence(photograph, tmp_path, wrong, sentence):
    file = tmp_path / "given.onnx"
    if wrong == "no network":
        file.write_bytes(b"nothing")
    elif wrong in ("blind", "vague"):
        network(file, (64, 64), steep={"blind": 0.0, "vague": 1.0}[wrong])
    elif wrong == "broken":
        network(file, (64, 64), ends=("Log",))
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


def test_a_photograph_on_black_is_no_cut_out(photograph, tmp_path):
    pixels = np.asarray(Image.open(photograph)).copy()
    pixels[pixels[..., 0] != SUBJECT] = 0
    Image.fromarray(pixels).save(photograph)
    reference = load_reference(photograph, network(tmp_path / "red.onnx", (64, 64)), native_size=128)
    assert reference.image[:4, :4].max() < 0.01, "its ground stays black, and is no paper to lay it on"


def test_without_its_package_it_is_named(photograph, tmp_path, monkeypatch):
    file = network(tmp_path / "other.onnx", (64, 64))
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ESCDiffError, match="needs the Python package onnxruntime"):
        load_reference(photograph, file, native_size=128)


def test_one_network_is_enough_for_several_pictures(photograph, checkpoint, tmp_path, capsys):
    file = network(tmp_path / "red.onnx", (64, 64))
    command = ["learn", "--kind", "shape", "--reference", photograph, photograph, "--mask", file, "--model",
               checkpoint, "--device", "cpu", "--steps", 1, "--batch-size", 1, "--out",
               tmp_path / "a.safetensors"]
    assert main([str(word) for word in command]) == 0, capsys.readouterr().err
    assert (tmp_path / "a.safetensors").is_file() and background_removal._opened.cache_info().currsize == 0
    file.unlink()
    command[command.index(checkpoint)] = tmp_path / "no such model"
    assert main([str(word) for word in command]) == 2
    assert "red.onnx is not there" in capsys.readouterr().err, "it is said before the model is looked for"
