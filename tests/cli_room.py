"""Where the tests of the command line run: a folder with a model, attributes, pictures, and everything that a
person could mistake for one of them."""


from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from method_zoo import disc, made_attribute, write_tiny
from PIL import Image
from safetensors.torch import save_file

from escdiff_core.attribute import Attribute
from escdiff_core.cli import main
from escdiff_core.families.load import load_model


def fill(room: Path) -> Path:
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
