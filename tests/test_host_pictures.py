"""Pictures and masks through the stock nodes of real ComfyUIs: each works, or is one sentence on the node
that takes it."""

import re

import numpy as np
import pytest
from host_server import error_of
from PIL import Image

pytestmark = pytest.mark.slow
MODEL = {"model": ["model", 0], "clip": ["model", 1], "vae": ["model", 2], "encoder": ["model", 3]}
ONE_STEP = {"class_word": "", "steps": 1, "seed": 0, "batch_size": 1, "preview_every": 0}
# Wires of the graph below
OPAQUE, CUTOUT, FOUR, FOUR_OPAQUE = ["opaque", 0], ["cutout", 0], ["four", 0], ["four_opaque", 0]
STAND_IN, INVERTED_STAND_IN = ["opaque", 1], ["no_subject", 0]
SUBJECT, GROUND, SMALL = ["subject", 0], ["cutout", 1], ["small", 0]
LOOKS_BEFORE_IT_LEARNS = 60     # seconds


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A red disc on white, uint8 (h, w, 3), and where it is, uint8 (h, w)."""
    y, x = np.mgrid[:128, :128]
    disc = (y - 60) ** 2 + (x - 70) ** 2 < 30**2
    return np.where(disc[..., None], (200, 50, 50), (255, 255, 255)).astype(np.uint8), (disc * 255).astype(
        np.uint8
    )


@pytest.fixture
def graph(server) -> dict:
    """What an artist has at hand: pictures with and without transparency, joined with it, and masks of every
    kind."""
    pixels, disc = scene()
    files = {
        "opaque.png": pixels,
        "cutout.png": np.dstack([pixels * (disc[..., None] > 0), disc]),
        "small.png": disc[:96, :64],
    }
    for name, array in files.items():
        Image.fromarray(array).save(server.base / "input" / name)
    invert = "InvertMask"
    nodes = {
        "model": ("ESCDiffLoadPocketModel", {}),
        "opaque": ("LoadImage", {"image": "opaque.png"}),
        "cutout": ("LoadImage", {"image": "cutout.png"}),
        "small": ("LoadImageMask", {"image": "small.png", "channel": "red"}),
        "subject": (invert, {"mask": GROUND}),
        "no_subject": (invert, {"mask": STAND_IN}),
        "four": ("JoinImageWithAlpha", {"image": CUTOUT, "alpha": GROUND}),
        "four_opaque": ("JoinImageWithAlpha", {"image": OPAQUE, "alpha": STAND_IN}),
        "two": ("ImageBatch", {"image1": OPAQUE, "image2": ["turned", 0]}),
        "turned": ("ImageInvert", {"image": OPAQUE}),
    }
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def learn(image, mask=None) -> dict:
    inputs = {**MODEL, **ONE_STEP, "image": image, "recipe": "recipe's own", "describe": ""}
    return {"class_type": "ESCDiffLearnShape", "inputs": inputs if mask is None else {**inputs, "mask": mask}}


def box(image, mask=None) -> dict:
    """What is wrong stands on the look, which is learned last and looked at first."""
    inputs = {**MODEL, **ONE_STEP, "shape_picture": CUTOUT, "shape_mask": SUBJECT, "look_picture": image,
              "prompt": "a *m with *a appearance", "negative": ""}
    return {
        "class_type": "ESCDiffShapeAndLook",
        "inputs": inputs if mask is None else {**inputs, "look_mask": mask},
    }


def score(image, mask=None) -> dict:
    inputs = {"images": CUTOUT, "shape_reference": image}
    return {
        "class_type": "ESCDiffScore",
        "inputs": inputs if mask is None else {**inputs, "shape_mask": mask},
    }


TAKE = {"Learn Shape": learn, "Shape and Look": box, "Score": score}


def ends(*names: str) -> dict:
    """Nodes that ask for what the learning nodes give."""
    return {f"{name}_end": {"class_type": "PreviewAny", "inputs": {"source": [name, 0]}} for name in names}


GOOD = {
    "four channels": (FOUR, None), "four channels and a mask": (FOUR, GROUND),
    "four channels, opaque": (FOUR_OPAQUE, None), "a stand-in": (OPAQUE, STAND_IN),
    "a stand-in, inverted": (OPAQUE, INVERTED_STAND_IN), "a subject": (CUTOUT, SUBJECT)
}


@pytest.mark.ends
def test_pictures_and_masks_of_every_kind_are_read(server, graph):
    """Reference Features reads as the nodes that learn do."""
    for name, (image, mask) in GOOD.items():
        reads = {**MODEL, "image": image, "seed": 0} | ({} if mask is None else {"mask": mask})
        saves = {"images": [f"{name} seen", 1], "filename_prefix": "seen"}
        graph |= {f"{name} seen": {"class_type": "ESCDiffReferenceFeatures", "inputs": reads},
                  f"{name} saved": {"class_type": "SaveImage", "inputs": saves},
                  f"{name} scored": score(image, mask)}
    entry = server.run(graph)
    assert entry["status"]["status_str"] == "success", entry["status"]
    _, disc = scene()
    for name in GOOD:
        file = entry["outputs"][f"{name} saved"]["images"][0]["filename"]
        seen = np.asarray(Image.open(server.base / "output" / file).convert("RGB"), np.float32) / 255
        lit = seen[..., 0] > 0.5        # the ground is dimmed to less
        assert (lit & (disc > 0)).sum() / (lit | (disc > 0)).sum() > 0.95, name
        figure = re.search(r"^S (\S+)", "\n".join(entry["outputs"][f"{name} scored"]["text"]), re.MULTILINE)
        assert float(figure[1]) > 0.95, (name, "a picture against itself")
    assert "take InvertMask and the mask away" in "\n".join(
        entry["outputs"]["a stand-in, inverted scored"]["text"]
    )


@pytest.mark.ends
def test_they_are_learned_from(server, graph):
    graph |= {"learn": learn(FOUR), "stand_in": learn(OPAQUE, STAND_IN), "box": box(FOUR, GROUND)}
    entry = server.run(graph | ends("learn", "stand_in", "box"))
    assert entry["status"]["status_str"] == "success", entry["status"]


BAD = {
    "inverted": (CUTOUT, GROUND, ("marks the border all round", "put InvertMask in between")),
    "another size": (OPAQUE, SMALL, ("64×96 pixels, the picture 128×128",
                                     "give a mask of the picture's size"))
}


@pytest.mark.parametrize("wrong", BAD)
@pytest.mark.parametrize("node", TAKE)
def test_a_mask_that_cannot_be_meant_is_one_sentence(server, graph, node, wrong):
    image, mask, sentence = BAD[wrong]
    entry = server.run(
        {**graph, "node": TAKE[node](image, mask), **({} if node == "Score" else ends("node"))},
        LOOKS_BEFORE_IT_LEARNS,
    )
    said = error_of(entry)
    assert all(part in said for part in sentence) and "\n" not in said.strip(), said


@pytest.mark.parametrize("node", ["Learn Shape", "Shape and Look"])
def test_one_mask_for_pictures_that_differ_is_one_sentence(server, graph, node):
    entry = server.run(
        {**graph, "node": TAKE[node](["two", 0], SUBJECT), **ends("node")}, LOOKS_BEFORE_IT_LEARNS
    )
    assert "there is one mask for 2 different pictures" in error_of(entry)


def test_score_says_which_of_several_references_it_takes(server, graph):
    entry = server.run({**graph, "node": score(["two", 0], SUBJECT)})
    assert entry["status"]["status_str"] == "success", entry["status"]
    assert "he shape reference is 2 pictures; the first is taken" in "\n".join(
        entry["outputs"]["node"]["text"]
    )
