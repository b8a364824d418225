"""What several commands share: arguments, progress bars, folders."""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from ..errors import ESCDiffError

LARGEST_SEED = 2**64 - 1


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="pocket", metavar="pocket|PATH",
                        help="a single-file checkpoint or diffusers folder of SD 1.x, SD 2.x or SDXL")
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda")


def add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="0 to 2**64 - 1")


def within(name: str, value: float, low: float, high: float) -> None:
    """Raise ESCDiffError unless ``value``, given as ``name``, lies from ``low`` to ``high``."""
    if not low <= value <= high:
        raise ESCDiffError(f"{name} is {value}; allowed: {low} to {high}")


def check_seed(seed: int) -> None:
    """Raise ESCDiffError for a seed that no random generator takes, before the work."""
    within("--seed", seed, 0, LARGEST_SEED)


def progress_bar(label: str) -> Callable[[int, int], None]:
    """A callback ``(done, total)`` that draws a bar on a terminal and nothing elsewhere."""
    bar = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(desc=label, total=total, disable=not sys.stderr.isatty(), leave=False)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return show


def output_file(path: Path) -> Path:
    """Make the folder of a .safetensors file to be. Raises ESCDiffError before the work if it could not be
    written afterwards."""
    try:
        if path.suffix != ".safetensors" or path.is_dir():
            raise ESCDiffError(f"--out {path} must end in .safetensors and be no folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ESCDiffError(
            f"--out {path} cannot be written ({error.strerror or error}); give a path in a folder of your own"
        ) from error
    return path


def output_folder(path: Path) -> Path:
    """Make the folder. Raises ESCDiffError if something else stands there."""
    try:
        if path.exists() and not path.is_dir():
            raise ESCDiffError(f"--out {path} is a file; give a folder")
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ESCDiffError(
            f"--out {path} cannot be made ({error.strerror or error}); give a folder of your own"
        ) from error
    return path
