"""ESCDiff Shape and Look on real servers: the whole product in one node, and the same attributes as the nodes
it stands for."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from host_server import QUICK, error_of, workflow
from hosts import is_newest
from PIL import Image

pytestmark = pytest.mark.slow
ENDS = ("latent", "sampler", "decode", "save")


def log(server) -> str:
    return Path(server.log.name).read_text()


def learnings(server) -> int:
    """How often something was learned so far."""
    return len(re.findall("learning (shape|appearance) with", log(server)))


def box(**inputs) -> dict:
    """The quick start with one box in the place of its Learn and Mix nodes; it learns two steps of each."""
    quick = workflow(**QUICK)
    graph = {name: quick[name] for name in ("model", "shape_picture", "appearance_picture", *ENDS)}
    graph["box"] = {
        "class_type": "ESCDiffShapeAndLook", "inputs": {
            "model": ["model", 0], "clip": ["model", 1], "vae": ["model", 2], "encoder": ["model", 3],
            "shape_picture": ["shape_picture", 0], "shape_mask": ["shape_picture", 1],
            "look_picture": ["appearance_picture",
                             0], "look_mask": ["appearance_picture",
                                               1], "prompt": quick["mix"]["inputs"]["prompt"], "negative": "",
            "class_word": "", "seed": 0, "steps": 2, "batch_size": 2, **inputs
        }
    }
    del graph["latent"]
    graph["sampler"]["inputs"] |= {
        "model": ["box", 0], "positive": ["box", 1], "negative": ["box", 2], "latent_image": ["box", 3]
    }
    graph["sheet"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["box", 4], "filename_prefix": "learned"},
    }
    return graph


def picture(server, entry: dict, node: str) -> np.ndarray:
    """The first picture that ``node`` saved."""
    assert entry["status"]["status_str"] == "success", entry["status"]
    return np.asarray(
        Image.open(server.base / "output" / entry["outputs"][node]["images"][0]["filename"]).convert("RGB")
    )


@pytest.mark.ends
def test_the_box_draws_what_learn_and_mix_draw_and_shows_what_it_learned(server):
    before = learnings(server)
    nodes = picture(
        server, server.run(workflow(**{**QUICK, "learn_shape__seed": 5, "learn_appearance__seed": 5})), "save"
    )
    entry = server.run(box(seed=5))
    assert np.array_equal(picture(server, entry, "save"), nodes), (
        "the same attributes, the same prompts, the same latent"
    )
    assert learnings(server) - before == 2, "the box found both in the cache"
    said = entry["outputs"]["box"]["text"]
    assert said == ["1 of 2: the shape", "Found in the cache: nothing had to be learned",
                    "2 of 2: the look"], said
    sheet = picture(server, entry, "sheet")
    assert sheet.shape[0] > 500 and sheet.shape[1] > 500, (
        "two references and what each token draws, twice as large"
    )
    assert np.array_equal(
        picture(server, server.run(box(seed=5, prompt="a *m on a blue background")), "sheet"), sheet
    )


@pytest.mark.parametrize("inputs, sentence", [
    ({"look_mask": ["more", 0]}, "mask"),
    ({"look_picture": ["video", 0]}, "40 pictures were given"),
    ({"look_recipe": "escdiff-shape"}, "escdiff-shape"),
], ids=["mask of the look", "video as the look", "recipe of the other kind"])
def test_what_is_wrong_with_the_look_is_said_before_the_shape_is_learned(server, inputs, sentence):
    before = learnings(server)
    graph = box(seed=77, **inputs)
    graph["more"] = {"class_type": "SolidMask", "inputs": {"value": 0.5, "width": 96, "height": 64}}
    graph["video"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 128, "height": 128, "batch_size": 40, "color": 0},
    }
    entry = server.run(graph)
    message = json.dumps(entry["refused"]) if "refused" in entry else error_of(entry)
    assert sentence in message, message
    assert learnings(server) == before


def test_a_cancelled_box_goes_on_from_what_it_learned(server, host):
    if not is_newest(host):
        pytest.skip("an older ComfyUI, where a Learn node is cancelled and goes on (test_host_notes.py)")
    long = box(seed=88, steps=8, preview_every=0)
    with server.page() as socket:
        server.cancel_at(socket, server.submit(long), "box", 3)
    entry = server.run(long)
    lines = entry["outputs"]["box"]["text"]
    gone_on = [re.match(r"Going on from step (\d+), ", line) for line in lines]
    assert len(steps := [int(m[1]) for m in gone_on if m]) == 1 and 3 <= steps[0] < 8, lines
    sheets = [picture(server, made, "sheet") for made in (entry, server.run(box(seed=5)))]
    assert not np.array_equal(*sheets), "what was learned is what is shown"
