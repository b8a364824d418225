"""A real ComfyUI server with a page at it: warnings come to their node, errors without a path, a cancel is
remembered."""

import re
import struct
from pathlib import Path

import pytest
import websocket
from host_server import QUICK, error_of, untyped, workflow
from hosts import is_newest
from PIL import Image

pytestmark = pytest.mark.slow
TEXT = 3        # the host's number for a text below a node
# runs the nodes again, on the same inputs
FINDS = {"learn_shape__preview_every": 0, "learn_appearance__preview_every": 0}


@pytest.fixture
def page(server):
    """What the front end hears: call it with a graph for (the history's entry, what each node shows).

    With a ``node`` and its ``step`` the run is cancelled there.
    """
    def run(graph: dict, node: str = "", step: int = 0) -> tuple[dict, dict[str, str]]:
        shown, number = {}, server.submit(graph)
        entry = server.cancel_at(socket, number, node, step) if node else server.wait_for(number, 300)
        while True:
            try:
                message = socket.recv()
            except websocket.WebSocketTimeoutException:
                return entry, shown
            if isinstance(message, bytes) and struct.unpack(">I", message[:4])[0] == TEXT:
                length = struct.unpack(">I", message[4:8])[0]
                shown[message[8:8 + length].decode()] = message[8 + length:].decode()

    with server.page() as socket:
        yield run


def test_warnings_come_to_their_nodes(server, page):
    graph = workflow(**QUICK, mix__prompt="a red star", latent__width=512, latent__height=512)
    entry, shown = page(graph)
    assert entry["status"]["status_str"] == "success", entry["status"]
    assert "does not contain *m" in shown["mix"] and "does not contain *a" in shown["mix"]
    assert shown["sampler"].startswith("Set the latent to 128×128 pixels")
    assert entry["outputs"]["mix"]["text"] == shown["mix"].split("\n")

    entry, shown = page(workflow(**QUICK, **FINDS))
    assert [shown[n].split(":")[0] for n in ("learn_shape", "learn_appearance")] == ["Found in the cache"] * 2
    assert shown["mix"] == shown["sampler"] == " " and "mix" not in entry["outputs"], (
        "what no longer holds is taken back"
    )


@pytest.mark.ends
def test_what_a_node_found_out_stands_below_it(server, page):
    """A front end shows a text of the outputs only for nodes that it knows."""
    graph = {
        name: node
        for name, node in workflow(**QUICK).items()
        if name in ("model", "shape_picture", "learn_shape")
    }
    learned, picture = (
        ["learn_shape", 0],
        {"images": ["shape_picture", 0], "shape_reference": ["shape_picture", 0]},
    )
    for name, inputs in {
        "AttributeInfo": {"attribute": learned},
        "SaveAttribute": {"attribute": learned, "name": "told"},
        "Export": {"attribute": learned, "form": "embedding", "name": "told"},
        "Score": picture,
    }.items():
        graph[name] = {"class_type": f"ESCDiff{name}", "inputs": inputs}
    entry, shown = page(graph)
    assert entry["status"]["status_str"] == "success", entry["status"]
    for name in ("AttributeInfo", "SaveAttribute", "Export", "Score"):
        assert shown[name] == "\n".join(entry["outputs"][name]["text"]), name
    assert shown["AttributeInfo"].startswith("Shape: write *m in prompts\nRecipe: escdiff-shape, 2 steps")
    assert shown["SaveAttribute"].endswith("told.safetensors") and "told" in shown["Export"]
    assert [line.split()[0] for line in shown["Score"].split("\n")] == ["S", "H"]
    image = entry["outputs"]["AttributeInfo"]["images"][0]
    with Image.open(server.base / "temp" / image["filename"]) as thumbnail:
        assert thumbnail.size == (128, 128) and len(thumbnail.convert("RGB").getcolors(1 << 20)) > 3, (
            "the reference"
        )


@pytest.mark.parametrize(
    "form, folder", {"lora": "loras", "full": "loras", "embedding": "embeddings"}.items()
)
def test_an_export_names_the_folder_of_its_form(server, host, page, form, folder):
    if form != "full" and not is_newest(host):
        pytest.skip("an older ComfyUI: the folders are the same, one form is enough")
    graph = {
        name: node
        for name, node in workflow(**QUICK).items()
        if name in ("model", "appearance_picture", "learn_appearance")
    }
    graph["out"] = {
        "class_type": "ESCDiffExport",
        "inputs": {"attribute": ["learn_appearance", 0], "form": form, "rank": 4},
    }
    there = server.base / "models" / folder
    for name in (f"made_{form}", f"below/{form}"):
        graph["out"]["inputs"]["name"] = name
        entry, shown = page(graph)
        assert entry["status"]["status_str"] == "success", entry["status"]
        said = re.match(r"(.+\.safetensors): (\d+\.\d) MB", shown["out"])
        assert said and Path(said[1]) == there / f"{name}.safetensors", shown["out"]
        assert abs(Path(said[1]).stat().st_size / 1e6 - float(said[2])) < 0.1
    graph["out"]["inputs"]["name"] = "../out"
    errors = server.run(graph)["refused"]["node_errors"]["out"]["errors"]
    assert errors and all(f"the name '../out' does not lie in {there};" in e["details"] for e in errors), (
        errors
    )


def test_an_error_is_the_sentence(server, page):
    entry, shown = page(untyped(workflow(**QUICK, learn_shape__recipe="escdiff-appearance")))
    error = next(m[1] for m in entry["status"]["messages"] if m[0] == "execution_error")
    assert error["exception_type"] == "ESCDiff" and error["traceback"]
    assert error_of(entry).startswith("recipe 'escdiff-appearance' learns appearance, not shape")
    assert shown["learn_shape"].startswith("Recipe 'escdiff-appearance' learns appearance"), (
        "two clicks away on 0.33"
    )
    assert "escdiff_core.errors" not in server.said().rsplit("got prompt", 1)[-1], "nor in the console"


@pytest.mark.ends
def test_a_cancelled_run_goes_on_when_it_is_queued_again(server, page):
    graph = workflow(
        **{**QUICK, "learn_shape__steps": 12, "learn_shape__seed": 78, "learn_shape__preview_every": 0}
    )
    _, shown = page(graph, "learn_shape", 3)
    assert shown["learn_shape"].startswith("Stopped after step ")
    step = int(shown["learn_shape"].split()[3])
    assert 3 <= step < 12
    entry, shown = page(graph)
    assert entry["status"]["status_str"] == "success"
    assert shown["learn_shape"].startswith(f"Going on from step {step}, ")
