"""The command line: every mistake is one line on stderr and exit status 2; what was asked for is written."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from method_zoo import disc, made_attribute, write_tiny
from PIL import Image
from safetensors.torch import load_file, save_file

from escdiff_core.attribute import Attribute
from escdiff_core.cli import COMMANDS, main
from escdiff_core.families.load import load_model
from escdiff_core.learning.recipes import RECIPES
from escdiff_core.reference import load_reference
from escdiff_core.unet.blocks import PRESETS

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A folder with a model, two attributes, pictures, and everything that a person could mistake for one of
    them."""
    room = tmp_path_factory.mktemp("room")
    checkpoint = write_tiny(room / "model.safetensors")
    model = load_model(checkpoint, "cpu")
    for kind in ("shape", "appearance"):
        made_attribute(model, kind).save(room / f"{kind}.safetensors")
    shape = Attribute.load(room / "shape.safetensors")
    replace(shape, base_fingerprint="f" * 64).save(room / "foreign.safetensors")
    replace(shape, kind="appearance").save(room / "same_token.safetensors")
    (room / "truncated.safetensors").write_bytes(checkpoint.read_bytes()[:checkpoint.stat().st_size // 2])
    (room / "half_attribute.safetensors").write_bytes((room / "shape.safetensors").read_bytes()[:9000])
    save_file({"a.weight": torch.zeros(3)}, room / "other.safetensors")
    torch.save({"a": torch.zeros(1)}, room / "pickle.pt")
    torch.save({"a": torch.zeros(1)}, room / "pickle.safetensors")
    (room / "text.png").write_text("this is no picture")
    flat = {
        "dot": (1, 1, 0), "strip": (64, 640, 0), "white": (64, 64, 1), "black": (64, 64, 0),
        "small": (32, 32, 1)
    }
    for name, picture in {
        "disc": disc().image,
        **{n: np.full((h, w, 3), v) for n, (h, w, v) in flat.items()},
    }.items():
        Image.fromarray((picture * 255).astype(np.uint8)).save(room / f"{name}.png")
    (room / "a_file").write_text("in the way")
    return room


@pytest.fixture(autouse=True)
def here(room, monkeypatch):
    monkeypatch.chdir(room)


@pytest.fixture
def quick_recipes(monkeypatch):
    for name, recipe in RECIPES.items():
        monkeypatch.setitem(RECIPES, name, replace(recipe, batch_size=2, views=2, steps=2, rank=2))


def run(capsys, *arguments):
    """Run in-process; returns (status, stdout, stderr)."""
    try:
        status = main([str(a) for a in arguments])
    except SystemExit as error:        # argparse leaves so
        status = error.code
    return status, *capsys.readouterr()


def learn(**changes):
    options = {
        "--kind": "shape", "--reference": "disc.png", "--out": "out.safetensors",
        "--model": "model.safetensors", "--device": "cpu", **changes
    }
    return ["learn", *(str(x) for pair in options.items() for x in pair)]


def mix(*more, **changes):
    options = {"--prompt": "a *m", "--out": "pictures", "--model": "model.safetensors", "--device": "cpu",
               "--sampling-steps": 1, "--count": 1, **changes}
    return ["mix", *(str(x) for pair in options.items() for x in pair), *more]


MISTAKES = {
    "no command": ([], "COMMAND"), "unknown command": (["draw"], "invalid choice"),
    "no prompt": (["mix", "--out", "x"], "--prompt"), "number": (mix(**{"--count": "many"}), "--count"),
    "missing model": (mix(**{"--model": "absent.safetensors"}), "absent.safetensors does not exist"),
    "wrong layout": (mix(**{"--model": "other.safetensors"}),
                     "needed: a single-file checkpoint of Stable Diffusion 1.x"),
    "truncated model": (mix(**{"--model": "truncated.safetensors"}), "truncated"),
    "attribute as model": (mix(**{"--model": "shape.safetensors"}), "needed: a single-file"),
    "pickle as model": (mix(**{"--model": "pickle.pt"}),
                        "pickle"), "folder as model": (mix(**{"--model": "."}), "is no diffusers model"),
    "unknown device": (mix(**{"--device": "tpu"}), "known: auto, cpu, cuda"),
    "absent device": (mix(**{"--device": "cuda:99"}), "not here"), "missing attribute": (mix(
        "--shape", "absent.safetensors"), "absent.safetensors"), "pickle as attribute": (mix(
            "--shape",
            "pickle.pt"), "pickle"), "pickle in disguise": (mix("--shape",
                                                                "pickle.safetensors"), "pickle.safetensors"),
    "model as attribute": (mix("--shape", "model.safetensors"), "not an attribute"),
    "picture as attribute": (mix("--shape", "disc.png"), "disc.png"), "truncated attribute": (mix(
        "--shape",
        "half_attribute.safetensors"), "half_attribute.safetensors"), "attribute of another base": (mix(
            "--shape", "foreign.safetensors"), "another base model"), "wrong kind": (mix(
                "--appearance", "shape.safetensors"), "give it as --shape"), "same token": (mix(
                    "--shape", "shape.safetensors", "--appearance",
                    "same_token.safetensors"), "both attributes"), "style that is no picture": (mix(
                        "--style", "text.png"), "text.png"), "strength": (mix(
                            "--shape", "shape.safetensors", "--shape-strength",
                            "7"), "strength"), "strength nan": (mix("--shape", "shape.safetensors",
                                                                    "--shape-strength", "nan"), "strength"),
    "schedule": (mix("--shape", "shape.safetensors", "--shape-start", "0.9", "--shape-end",
                     "0.1"), "schedule"), "middle": (mix("--middle", "both"), "--middle"), "overlap": (mix(
                         "--overlap", "both"), "--overlap"), "count": (mix(**{"--count": 0}), "--count"),
    "sampling steps": (mix(**{"--sampling-steps": 0}),
                       "steps"), "out is a file": (mix(**{"--out": "a_file"}), "is a file; give a folder"),
    "out below a file": (mix(**{"--out": "a_file/pictures"}), "a_file"), "demo out is a file": ([
        "demo", "--out", "a_file"
    ], "a_file"), "no kind": (["learn", "--reference", "disc.png", "--out",
                               "x.safetensors"], "--kind"), "kind": (learn(**{"--kind": "style"}), "--kind"),
    "unknown recipe": (learn(**{"--recipe": "escdif"}), ", ".join(
        sorted(RECIPES))), "unknown preset": (learn(**{"--preset": "papr"}), ", ".join(
            sorted(PRESETS))), "preset without shape": (learn(**{"--preset": "fine-decoder"}),
                                                        "trains nothing for shape; presets that do: paper"),
    "recipe of another kind": (learn(**{"--recipe": "escdiff-appearance"}),
                               "learns appearance, not shape"), "steps": (learn(**{"--steps": -1}), "steps"),
    "seed": (learn(**{"--seed": -1}), "--seed is -1"), "seed of the demo": ([
        "demo", "--out", "out", "--seed", 2**64
    ], "--seed is 18446744073709551616; allowed: 0 to"), "token": (learn(**{"--token": "two words"}),
                                                                   "one word"),
    "class word": (learn(**{"--class-word": "\u200b"}),
                   "all of them visible"), "learn to no safetensors": (learn(**{"--out": "out.ckpt"}),
                                                                       "must end in .safetensors"),
    "learn to a folder": (learn(**{"--out": "folder.safetensors"}), "folder.safetensors"),
    "learn below a file": (learn(**{"--out": "a_file/out.safetensors"}),
                           "a_file"), "no picture": (learn(**{"--reference": "absent.png"}),
                                                     "absent.png does not exist"), "not a picture": (learn(
                                                         **{"--reference": "text.png"}), "not a picture"),
    "safetensors as picture": (learn(**{"--reference": "shape.safetensors"}),
                               "not a picture"), "1x1 picture": (learn(**{"--reference": "dot.png"}), "1×1"),
    "strip": (learn(**{"--reference": "strip.png"}),
              "longer than"), "full mask": (learn(**{"--mask": "white.png"}), "full"),
    "empty mask": (learn(**{"--mask": "black.png"}),
                   "empty"), "mask of another size": (learn(**{"--mask": "small.png"}),
                                                      "32×32"), "no mask": (learn(**{"--mask": "absent.png"}),
                                                                            "absent.png"),
    "no filter": (learn(**{"--filter": "absent.safetensors"}), "no filter file"), "no encoder": (learn(
        **{"--encoder": "absent.safetensors"}), "no vision tower"), "info of nothing": ([
            "info", "absent.safetensors"
        ], "absent.safetensors"), "info of a picture": ([
            "info", "disc.png"
        ], "disc.png"), "one mask for two pictures": ([
            *learn(**{"--mask": "small.png"}), "--reference", "disc.png", "disc.png"
        ], "1 masks were given"), "seed beyond": (mix(**{"--seed": 2**64}),
                                                  "--seed is"), "guidance nan": (mix(**{"--guidance": "nan"}),
                                                                                 "--guidance is nan"),
    "guidance inf": (mix(**{"--guidance": "inf"}), "--guidance is inf"), "filters from no pictures": ([
        "train-filters", "--images", "world", "--out", "f.safetensors", "--count", "0"
    ], "--count is 0"), "filters in no steps": ([
        "train-filters", "--images", "world", "--out", "f.safetensors", "--steps", "-5"
    ], "--steps is -5"), "filters with a bad seed": ([
        "train-filters", "--images", "world", "--out", "f.safetensors", "--seed", "-3"
    ], "--seed is -3"), "export over itself": ([
        "export", "shape.safetensors", "--format", "lora", "--out", "./shape.safetensors"
    ], "attribute itself"), "export format": ([
        "export", "shape.safetensors", "--format", "ckpt", "--out", "x"
    ], "--format"), "export to no safetensors": ([
        "export", "shape.safetensors", "--format", "lora", "--out", "x.bin"
    ], ".safetensors"), "filters from nothing": ([
        "train-filters", "--images", "absent", "--out", "f.safetensors", "--model", "model.safetensors"
    ], "absent"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(case, capsys, quick_recipes, room):
    Path("folder.safetensors").mkdir(exist_ok=True)
    arguments, words = MISTAKES[case]
    status, out, err = run(capsys, *arguments)
    lines = err.strip().splitlines()
    assert status == 2 and len(lines) == 1, err
    assert lines[0].startswith("escdiff: ") and words in lines[0] and "Traceback" not in err + out
    unwanted = [*room.glob("out*"), *room.rglob("*.tmp"), *room.glob("pictures/*"), *room.glob("x*")]
    assert not unwanted, "nothing is left behind"


def test_from_a_shell_too(room):
    command = [sys.executable, "-m", "escdiff_core", "info", str(room / "half_attribute.safetensors")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1 and "half_attribute" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    status, out, _ = run(capsys, command, "--help")
    assert status == 0 and COMMANDS[command] in " ".join(out.split())


def test_learn_info_mix_and_export_in_turn(capsys, quick_recipes, tmp_path, room):
    for kind, more in (
        ("shape", ["--describe", "a table"]),
        ("appearance", ["--recipe", "escdiff-appearance-lora"]),
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


@pytest.mark.parametrize("command", [
    learn(**{"--out": "/proc/x.safetensors"}),
    learn(**{"--out": "a_file/x.safetensors"}),
    [
        "train-filters", "--images", "world", "--count", "2", "--model", "model.safetensors", "--out",
        "/proc/x.safetensors"
    ],
], ids=["no room", "below a file", "filters"])
def test_a_place_that_cannot_be_written_is_told_before_the_work(command, capsys, monkeypatch):
    monkeypatch.setattr("escdiff_core.families.load.load_model", lambda *_: pytest.fail("work was done"))
    status, _, err = run(capsys, *command)
    assert status == 2 and "cannot be written" in err and len(err.strip().splitlines()) == 1


def test_filters_in_a_file_of_another_kind_are_refused_before_they_are_trained(capsys, monkeypatch):
    monkeypatch.setattr("escdiff_core.families.load.load_model", lambda *_: pytest.fail("work was done"))
    status, _, err = run(capsys, "train-filters", "--images", "world", "--out", "filters.pt")
    assert status == 2 and "must end in .safetensors" in err


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
