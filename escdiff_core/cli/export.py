"""``export``: an attribute as files that work without this pack."""

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--format", required=True, choices=["lora", "embedding", "full"],
                        help="lora and embedding load in ComfyUI and diffusers; full is the exact difference, for ComfyUI")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE")
    parser.add_argument("--rank", type=int, default=32, metavar="N", help="of the approximation, when full weights were learned")


def run(options: argparse.Namespace) -> None:
    from ..attribute import Attribute, export

    attribute = Attribute.load(options.file)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    print(export.write(attribute, options.format, options.out, options.rank))
