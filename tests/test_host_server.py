"""A real ComfyUI server runs the workflows that ship, obeys a cancel, and lives on after bad graphs."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import host_small_work
import numpy as np
import pytest
import torch
from host_server import QUICK, error_of, one_step, untyped, workflow
from hosts import ROOT, newest, python_of, tool, version
from once import for_all_workers
from PIL import Image
from shipped import DEFINITIONS, builder

from escdiff_core.attribute import Attribute
from escdiff_core.bench import protocol
from escdiff_core.cli import main
from escdiff_core.families.load import load_model
from escdiff_core.learning.encoders import choose_encoder
from escdiff_core.learning.learn import learn
from escdiff_core.learning.recipes import DEFAULTS, find_recipe
from escdiff_core.mixing.mix import Mix
from escdiff_core.mixing.plan import Use
from escdiff_core.model.diffusion import DiffusionModel
from escdiff_core.worlds.pocket.world import render

pytestmark = pytest.mark.slow


def test_the_pocket_workflow_gives_pictures(server):
    entry = server.run(workflow(**QUICK))
    assert entry["status"]["status_str"] == "success", entry["status"]
    pictures = entry["outputs"]["save"]["images"]
    assert len(pictures) == 1 and (server.base / "output" / pictures[0]["filename"]).is_file()
    assert len(list((server.base / "user").rglob("cache/*.safetensors"))) >= 2, (
        "both attributes are kept for the next time"
    )


STEPS = 6
# Steps, and by how much of 255 the two pictures may differ: 1 is cut off where 8 bits do not hold it. The
# command's schedule is trailing (see model/sample.py), which is the workflow's "simple" where the steps
# divide 1000; elsewhere some are one apart.
SAME_PICTURE = {10: 2, workflow()["sampler"]["inputs"]["steps"]: 8}
KINDS = {"shape": "learn_shape", "appearance": "learn_appearance"}


@pytest.fixture(scope="session")
def headless(tmp_path_factory) -> tuple[DiffusionModel, dict[str, Attribute]]:
    """The pocket model, and what the headless method learns with the pocket workflow's settings; once for all
    hosts."""
    model = load_model("pocket", "cpu")
    folder = for_all_workers(tmp_path_factory, "headless", lambda folder: learn_headless(model, folder))
    return model, {kind: Attribute.load(folder / f"{kind}.safetensors") for kind in KINDS}


def learn_headless(model: DiffusionModel, folder: Path) -> None:
    encoder = choose_encoder("auto", model)
    specs = {"shape": protocol.shape_references(1)[0], "appearance": protocol.appearance_references(1)[0]}
    for kind, spec in specs.items():
        recipe = find_recipe(DEFAULTS[kind], steps=STEPS, batch_size=QUICK["learn_shape__batch_size"],
                             views=host_small_work.VIEWS)
        made, _ = learn(model, [protocol.as_reference(spec)], recipe, 0, encoder=encoder)
        made.save(folder / f"{kind}.safetensors")


def direction(attribute: Attribute) -> torch.Tensor:
    """All that was learned as one vector of length 1: the weights' change, and the token."""
    parts = [attribute.delta[name] for name in sorted(attribute.delta)] + [attribute.embeddings["clip_l"]]
    vector = torch.cat([part.double().flatten() for part in parts])
    return vector / vector.norm()


def test_the_pocket_workflow_learns_and_draws_what_the_headless_method_does(server, headless):
    """Learning agrees as far as another torch lets it: Adam makes whole steps of the last digits. Drawing
    agrees to the pixel."""
    model, learned = headless
    graph = workflow(**{**QUICK, **{f"{node}__steps": STEPS for node in KINDS.values()}})
    for kind, node in KINDS.items():
        graph[f"save_{kind}"] = {
            "class_type": "ESCDiffSaveAttribute",
            "inputs": {"attribute": [node, 0], "name": f"same/{kind}"},
        }
    pictures, uses = {}, {}
    for steps in SAME_PICTURE:
        graph["sampler"]["inputs"] |= {"steps": steps, "seed": steps}
        name = server.run(graph)["outputs"]["save"]["images"][0]["filename"]
        pictures[steps] = np.asarray(Image.open(server.base / "output" / name).convert("RGB"), np.float32)
    for kind in KINDS:
        theirs = Attribute.load(server.base / "models" / "escdiff" / "same" / f"{kind}.safetensors")
        assert theirs.recipe_hash == learned[kind].recipe_hash and theirs.word == learned[kind].word
        assert float(direction(theirs) @ direction(learned[kind])) > 0.99, (
            "with another seed it is 0.5 for shapes, 0.3 for looks"
        )
        uses[kind] = Use(theirs)
    for steps, most in SAME_PICTURE.items():
        drawn = Mix(model, **uses).draw(
            graph["mix"]["inputs"]["prompt"], steps=steps, guidance_scale=3.0, seed=steps
        )
        assert np.abs(pictures[steps] - 255 * drawn[0]).max() <= most, steps


def test_the_sd15_workflows_run_to_the_end(server):
    """In the order of the notes in them: the mixes load what the first two have saved."""
    for name in ("sd15_learn_shape", "sd15_learn_appearance", "sd15_mix", "sd15_mix_controlnet", "batch"):
        entry = server.run(one_step(name))
        assert entry.get("status", {}).get("status_str") == "success", (name, entry, server.said())


@pytest.fixture
def background_removal(server, host):
    """The server has the model that the workflow asks for, made in the layout of its own ComfyUI."""
    if not (host / "comfy" / "background_removal").is_dir():
        pytest.skip("this ComfyUI has no background removal yet")
    name = workflow("sd15_photographs")["remover"]["inputs"]["bg_removal_name"]
    program = ROOT / "tests" / "host_background.py"
    file = server.base / "models" / "background_removal" / name
    done = subprocess.run([python_of(host), program, file], cwd=host, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    yield
    file.unlink()                   # half a gigabyte


def test_the_workflow_for_photographs_runs_on_masks_of_the_background_removal(server, background_removal):
    """And the masks are the subject, not its ground: an exchanged mask would be learned from as quietly."""
    graph = one_step("sd15_photographs")
    graph["box"]["inputs"] |= {"steps": 1, "batch_size": 1}
    for name in ("shape_mask", "look_mask"):
        graph[f"{name}_seen"] = {"class_type": "MaskToImage", "inputs": {"mask": [name, 0]}}
        graph[f"{name}_saved"] = {
            "class_type": "SaveImage", "inputs": {"images": [f"{name}_seen", 0], "filename_prefix": name}
        }
    entry = server.run(graph)
    assert entry.get("status", {}).get("status_str") == "success", (entry, server.said())
    subject = render(protocol.shape_references(1)[0]).mask > 0.5
    for name in ("shape_mask", "look_mask"):
        file = server.base / "output" / entry["outputs"][f"{name}_saved"]["images"][0]["filename"]
        found = np.asarray(Image.open(file).convert("L")) > 127
        assert (found & subject).sum() / (found | subject).sum() > 0.9, name
    assert entry["outputs"]["save"]["images"]


def test_cancel_stops_learning_and_the_server_lives_on(server):
    number = server.submit(workflow(**{**QUICK, "learn_shape__steps": 500, "learn_shape__seed": 77}))
    end = time.monotonic() + 120
    while "learning shape with escdiff-shape" not in server.said().rsplit("got prompt", 1)[-1]:
        assert time.monotonic() < end, server.said()
        time.sleep(0.05)
    time.sleep(1)
    pressed = time.monotonic()
    server.post("/interrupt", {})
    entry = server.wait_for(number, 60)
    assert time.monotonic() - pressed < 10, "a step takes less than a second, a preview a few"
    assert "execution_interrupted" in [m[0] for m in entry["status"]["messages"]]
    assert server.run(workflow(**QUICK))["status"]["status_str"] == "success"


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"mix__shape": ["learn_appearance", 0]}, "an attribute of kind 'appearance' was given as shape"),
        (
            {"learn_shape__recipe": "escdiff-appearance"},
            "learns appearance, not shape; recipes for shape: escdiff-shape",
        ),
        ({"learn_shape__mask": ["more", 0]}, "mask"),
        ({"learn_shape__image": ["video", 0]}, "40 pictures were given"),
    ],
    ids=["wrong kind", "wrong recipe", "wrong mask", "video"],
)
def test_a_bad_graph_is_one_sentence_and_the_server_lives_on(server, changes, sentence):
    graph = untyped(workflow(**QUICK, **changes))
    graph["more"] = {"class_type": "SolidMask", "inputs": {"value": 0.5, "width": 96, "height": 64}}
    graph["video"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 128, "height": 128, "batch_size": 40, "color": 0},
    }
    entry = server.run(graph)
    message = error_of(entry)
    assert sentence in message and message.strip().count("\n") == 0
    assert server.get("/system_stats")["system"]


def test_a_graph_without_clip_is_refused_and_says_which_input(server):
    graph = workflow(**QUICK)
    del graph["mix"]["inputs"]["clip"]
    assert "clip" in json.dumps(server.run(graph)["refused"])
    assert server.get("/system_stats")["system"]


def test_a_look_in_the_place_of_a_shape_is_refused_before_anything_runs(server):
    graph = workflow(**QUICK, mix__shape=["learn_appearance", 0])
    errors = server.run(graph)["refused"]["node_errors"]["mix"]["errors"]
    assert [e["type"] for e in errors] == ["return_type_mismatch"] and "shape" in errors[0]["details"]
    graph["mix"]["inputs"]["shape"] = ["learn_shape", 0]
    assert server.run(graph)["status"]["status_str"] == "success"


def test_an_attribute_of_another_model_is_one_sentence(server):
    server.run(one_step("sd15_learn_shape", save_shape__name="other"))
    graph = workflow(**QUICK, mix__shape=["other", 0])
    graph["other"] = {"class_type": "ESCDiffLoadAttribute", "inputs": {"file": "other.safetensors"}}
    message = error_of(server.run(graph))
    assert "was learned on another base model" in message and message.strip().count("\n") == 0


@pytest.mark.ends
def test_a_table_of_jobs_runs_on_a_real_server(server, tmp_path, capsys):
    (tmp_path / "quick.json").write_text(json.dumps(workflow(**QUICK)))
    (tmp_path / "jobs.csv").write_text(
        "name,sampler.seed,mix.prompt\nfirst,1,a *m\nsecond,2,a *m with *a appearance\n"
    )
    command = ["queue", "--server", server.url, "--workflow", str(tmp_path / "quick.json"),
               "--table", str(tmp_path / "jobs.csv"), "--out", str(tmp_path / "out")]
    assert main(command) == 0, capsys.readouterr()
    assert sorted(p.name for p in (tmp_path / "out").glob("[!.]*")) == [
        "first_0.png",
        "report.json",
        "second_0.png",
    ]
    before = (tmp_path / "out" / "first_0.png").stat().st_mtime_ns
    assert main(command) == 0
    assert (tmp_path / "out" / "first_0.png").stat().st_mtime_ns == before, "what is done is not done again"


@pytest.mark.ends
@pytest.mark.parametrize("how", ["queue", "jobs"])
def test_jobs_that_a_person_takes_off_the_queue_are_not_drawn(server, tmp_path, how):
    if how == "jobs" and not server.takes("/api/jobs/none/cancel"):
        pytest.skip("this ComfyUI has no /api/jobs/…/cancel yet")
    graph = {
        "model": workflow()["model"],
        "text": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 1], "text": "a"}},
        **{key: workflow()[key] for key in ("latent", "sampler", "decode", "save")},
    }
    graph["latent"]["inputs"]["batch_size"] = 1
    graph["sampler"]["inputs"] |= {
        "model": ["model", 0], "positive": ["text", 0], "negative": ["text", 0], "steps": 40
    }
    (tmp_path / "plain.json").write_text(json.dumps(graph))
    (tmp_path / "jobs.csv").write_text("name,sampler.seed,sampler.steps\nfirst,1,60\nsecond,2,3\nthird,3,3\n")
    command = [
        sys.executable, "-m", "escdiff_core", "queue", "--server", server.url, "--workflow",
        tmp_path / "plain.json", "--table", tmp_path / "jobs.csv", "--out", tmp_path / "out"
    ]
    client = subprocess.Popen([str(c) for c in command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not ((queue := server.get("/queue"))["queue_running"] and queue["queue_pending"]):
        assert time.monotonic() < end and client.poll() is None
        time.sleep(0.05)
    number = queue["queue_pending"][0][1]
    server.post(f"/api/jobs/{number}/cancel", {}) if how == "jobs" else server.post("/queue", {"clear": True})
    said, _ = client.communicate(timeout=200)
    assert client.returncode == 1 and "2 of 3 jobs done" in said and (
        "cancelled: second: taken off the server's queue") in said, said
    assert sorted(p.name
                  for p in (tmp_path / "out").glob("[!.]*")) == ["first_0.png", "report.json", "third_0.png"]


def test_a_client_of_others_runs_the_api_workflow(server, tmp_path):
    """comfy-cli, the field's own command line."""
    if not tool("comfy-cli").exists():
        pytest.skip("NO COMFY-CLI: it comes with the hosts' environments (python tests/hosts.py)")
    path = tmp_path / "quick.json"
    path.write_text(json.dumps(workflow(**QUICK, save__filename_prefix="from_comfy_cli")))
    command = [tool("comfy-cli"), "--skip-prompt", "run", "--workflow", path, "--host", "127.0.0.1", "--port",
               str(server.port), "--wait", "--timeout", "300"]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=400,
                          env={**os.environ, "HOME": str(tmp_path), "DO_NOT_TRACK": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((server.base / "output").glob("from_comfy_cli*.png"))


def test_the_saved_definitions_are_those_of_our_nodes(server, host):
    if version(host) != version(newest()):
        pytest.skip("what is saved is what the newest ComfyUI says")
    served = server.get("/object_info")
    ours = {name: saved for name, saved in DEFINITIONS.items() if not saved["stock"]}
    assert {name: builder.excerpt(served[name]) for name in ours} == ours, (
        "run python example_workflows/build.py --server URL"
    )
