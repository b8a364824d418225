"""What a person gets wrong on the command line is one sentence and status 2, and leaves nothing behind."""

import subprocess
import sys
from pathlib import Path

import pytest
from cli_room import learn, mix, run

from escdiff_core.learning.recipes import RECIPES
from escdiff_core.unet.blocks import PRESETS

pytestmark = pytest.mark.usefixtures("in_cli_room")
ROOT = Path(__file__).resolve().parent.parent


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
def test_a_mistake_is_one_line_and_status_2(case, capsys, quick_recipes, cli_room):
    Path("folder.safetensors").mkdir(exist_ok=True)
    arguments, words = MISTAKES[case]
    status, out, err = run(capsys, *arguments)
    lines = err.strip().splitlines()
    assert status == 2 and len(lines) == 1, err
    assert lines[0].startswith("escdiff: ") and words in lines[0] and "Traceback" not in err + out
    unwanted = [p for glob in ("out*", "**/*.tmp", "pictures/*", "x*") for p in cli_room.glob(glob)]
    assert not unwanted, "nothing is left behind"


def test_from_a_shell_too(cli_room):
    command = [sys.executable, "-m", "escdiff_core", "info", str(cli_room / "half_attribute.safetensors")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1 and "half_attribute" in done.stderr


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
