"""The command line: what was asked for is written, and a run that was stopped goes on."""

import json
import signal

import numpy as np
import pytest
from cli_room import learn, mix, run
from method_zoo import disc
from PIL import Image
from safetensors.torch import load_file

from escdiff_core.attribute import Attribute
from escdiff_core.cli import COMMANDS
from escdiff_core.reference import load_reference

pytestmark = pytest.mark.usefixtures("in_cli_room")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    status, out, _ = run(capsys, command, "--help")
    assert status == 0 and COMMANDS[command] in " ".join(out.split())


def test_learn_info_mix_and_export_in_turn(capsys, quick_recipes, tmp_path, cli_room):
    for kind, more in (
        ("shape", ["--describe", "a table", "--recipe", "escdiff-shape-full"]),
        ("appearance", []),
    ):
        out = tmp_path / "learned" / f"{kind}.safetensors"
        status, told, err = run(capsys, *learn(**{"--kind": kind, "--out": out, "--seed": 3}), *more)
        assert status == 0 and str(out) in told and "2 steps" in told, err
    assert sorted(p.name for p in out.parent.iterdir()) == [
        "appearance.safetensors", "shape.safetensors"], "two steps are too few for a snapshot"

    status, told, _ = run(capsys, "info", out)
    assert status == 0 and (json.loads(told)["kind"], json.loads(told)["form"], json.loads(told)["seed"]) == (
        "appearance", "lora", 3)

    shape, pictures = out.with_name("shape.safetensors"), tmp_path / "new" / "pictures"
    status, told, _ = run(
        capsys, *mix("--shape", shape, "--appearance", out, **{"--out": pictures, "--count": 2})
    )
    assert status == 0 and sorted(p.name for p in pictures.iterdir()) == ["000.png", "001.png", "report.json"]
    assert np.asarray(Image.open(pictures / "000.png")).shape == (64, 64, 3)
    report = json.loads((pictures / "report.json").read_text())
    assert report["warnings"] == ["the prompt does not use *a"] and "does not use *a" in told
    assert report["attributes"]["shape"]["token"] == "*m"

    status, told, _ = run(
        capsys, *mix("--shape", shape, **{"--out": pictures, "--prompt": "a *mask", "--count": 1})
    )
    assert status == 0 and "does not use *m" in told, "a longer word that begins like the token is no token"
    foreign = tmp_path / "never"
    assert run(capsys, *mix("--shape", out, **{"--out": foreign}))[0] == 2 and not foreign.exists()

    for form in ("lora", "embedding", "full"):
        path = tmp_path / "exports" / f"{form}.safetensors"
        assert run(capsys, "export", shape, "--format", form, "--out", path, "--rank", "2")[
            0
        ] == 0 and load_file(path)


def test_mix_without_an_attribute_is_plain_text_to_image(capsys, tmp_path):
    for name in ("one", "two"):
        assert run(capsys, *mix(**{"--out": tmp_path / name, "--prompt": "a red star"}))[0] == 0
    assert (tmp_path / "one" / "000.png").read_bytes() == (tmp_path / "two" / "000.png").read_bytes()


def test_a_style_is_taken_from_a_picture(capsys, tmp_path):
    for name, more in {"plain": (), "styled": ("--style", "disc.png")}.items():
        assert run(capsys, *mix(*more, **{"--out": tmp_path / name, "--prompt": "a star"}))[0] == 0
    assert (tmp_path / "plain" / "000.png").read_bytes() != (tmp_path / "styled" / "000.png").read_bytes()
    assert json.loads((tmp_path / "styled" / "report.json").read_text())["style"] == "disc.png"


def test_a_picture_is_drawn_over(capsys, tmp_path):
    for name, share in {"all": 1, "some": 0.2}.items():
        more = {"--out": tmp_path / name, "--prompt": "a star", "--sampling-steps": 5, "--denoise": share}
        assert run(capsys, *mix("--from", "disc.png", **more))[0] == 0
    assert json.loads((tmp_path / "some" / "report.json").read_text())["denoise"] == 0.2
    reference, *drawn = (np.asarray(Image.open(p).convert("RGB")) / 255 for p in (
        "disc.png", tmp_path / "some" / "000.png", tmp_path / "all" / "000.png"))
    some, every = (np.abs(picture - reference).mean() for picture in drawn)
    assert some < every
    assert run(capsys, *mix("--from", "disc.png", **{"--out": tmp_path / "no", "--denoise": 0}))[0] == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "kill"])
def test_a_stopped_run_goes_on_with_resume(number, capsys, quick_recipes, ctrl_c, tmp_path, monkeypatch):
    from escdiff_core.cli import learn as command

    def interrupting(label):
        def bar(done, _total):
            if done == 1 and label.startswith("learning"):
                signal.raise_signal(number)
        return bar

    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    assert run(capsys, *learn(**{"--out": whole}))[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(command, "progress_bar", interrupting)
        status, _, err = run(capsys, *learn(**{"--out": broken}))
    assert status == 130 and err.strip() == "escdiff: stopped" and not broken.exists()
    kept = tmp_path / "broken.snapshots"
    assert sorted(p.name for p in kept.iterdir()) == ["resume.safetensors", "step-000001.safetensors"]
    status, _, err = run(capsys, *learn(**{"--out": broken}))
    assert status == 2 and "add --resume to go on with it" in err, "a forgotten --resume loses nothing"
    assert run(capsys, *learn(**{"--out": broken}), "--resume")[0] == 0
    assert broken.read_bytes() == whole.read_bytes()
    assert [p.name for p in kept.iterdir()] == ["step-000001.safetensors"], (
        "what a finished run needs no more is large"
    )


def test_a_smaller_mix_leaves_no_picture_of_a_larger_one(capsys, tmp_path):
    for count in (3, 1):
        assert run(capsys, *mix(**{"--out": tmp_path, "--count": count}))[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000.png", "report.json"]


def test_a_picture_with_transparency_is_taken_with_its_own_mask(capsys, quick_recipes, tmp_path):
    rgba = np.dstack([disc().image, disc().mask])
    Image.fromarray((rgba * 255).astype(np.uint8)).save(tmp_path / "cut.png")
    assert (
        run(capsys, *learn(**{"--reference": tmp_path / "cut.png", "--out": tmp_path / "a.safetensors"}))[0]
        == 0
    )


def test_each_picture_has_a_mask_of_its_own(capsys, quick_recipes, tmp_path):
    for name, shift in (("a", 0), ("b", 9)):
        for tail, picture in (("", disc().image), ("_mask", disc().mask)):
            Image.fromarray((np.roll(picture, shift, 1) * 255).astype(np.uint8)).save(
                tmp_path / f"{name}{tail}.png"
            )
    pictures, masks = ([tmp_path / f"{n}{tail}.png" for n in "ab"] for tail in ("", "_mask"))
    given = learn(**{"--out": tmp_path / "out.safetensors"})
    assert run(capsys, *given, "--reference", *pictures, "--mask", *masks)[0] == 0
    right = Attribute.load(tmp_path / "out.safetensors").reference_hash
    assert right == load_reference(pictures[0], masks[0], 64).hash
    assert run(capsys, *given, "--reference", *pictures, "--mask", *masks[::-1])[0] == 0
    assert Attribute.load(tmp_path / "out.safetensors").reference_hash != right


def test_out_of_memory_is_one_line(capsys, quick_recipes, tmp_path, monkeypatch):
    def large(*_args, **_kwargs):
        raise MemoryError

    monkeypatch.setattr("escdiff_core.learning.views.image_to_latents", large)
    status, _, err = run(capsys, *learn(**{"--out": tmp_path / "a.safetensors"}))
    assert (
        status == 2
        and err.strip().startswith("escdiff: out of memory")
        and len(err.strip().splitlines()) == 1
    )


def test_out_of_disk_space_is_one_line(capsys, quick_recipes, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device", "out.safetensors")

    monkeypatch.setattr("escdiff_core.files.save_file", full)
    status, _, err = run(capsys, *learn(**{"--out": tmp_path / "a.safetensors"}))
    assert status == 2 and "no space left" in err.lower() and len(err.strip().splitlines()) == 1
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
