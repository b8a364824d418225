"""What several commands share: arguments, progress bars, writing pictures and reports."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..errors import ESCDiffError


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="pocket", metavar="pocket|PATH",
                        help="any single-file SD 1.x checkpoint or diffusers folder")
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda")


def progress_bar(label: str) -> Callable[[int, int], None]:
    """A callback ``(done, total)`` that draws a bar on a terminal and nothing elsewhere."""
    bar = tqdm(desc=label, disable=not sys.stderr.isatty(), leave=False)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return show


def output_folder(path: Path) -> Path:
    """Make the folder. Raises ESCDiffError if something else stands there."""
    if path.exists() and not path.is_dir():
        raise ESCDiffError(f"--out {path} is a file; give a folder")
    path.mkdir(parents=True, exist_ok=True)
    return path


def to_bytes(image: np.ndarray) -> np.ndarray:
    """A picture in 0 to 1 as uint8."""
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def save_picture(image: np.ndarray, path: Path) -> None:
    """Write a picture (h, w, 3), 0 to 1, as PNG; never half a file."""
    unfinished = path.with_name(path.name + ".tmp")
    Image.fromarray(to_bytes(image)).save(unfinished, "PNG")
    os.replace(unfinished, path)


def save_report(report: dict, path: Path) -> None:
    """Write JSON; never half a file."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(json.dumps(report, indent=1) + "\n")
    os.replace(unfinished, path)
