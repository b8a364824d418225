"""``export``: an attribute as files that work without this pack."""

import argparse
from pathlib import Path

from ..errors import ESCDiffError


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument(
        "--format", required=True, choices=["lora", "embedding", "full"],
        help="lora and embedding load in ComfyUI and diffusers; full is the exact difference, for ComfyUI")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE")
    parser.add_argument("--rank", type=int, default=32, metavar="N",
                        help="of the approximation, when full weights were learned")


def run(options: argparse.Namespace) -> None:
    from ..attribute import Attribute
    from ..attribute.export import export_embedding, export_full, export_lora

    attribute = Attribute.load(options.file)
    if options.out.exists() and options.out.samefile(options.file):
        raise ESCDiffError(
            f"--out {options.out} is the attribute itself, which an export cannot replace; give another file"
        )
    if options.format == "lora":
        report = export_lora(attribute, options.out, rank=options.rank)
    else:
        report = {"embedding": export_embedding, "full": export_full}[options.format](attribute, options.out)
    print(f"{report.path}: {report.size / 1e6:.1f} MB" + (f", rank {report.rank}" if report.rank else "")
          + (f", {report.error:.1%} of the change is lost" if report.error > 0.001 else "")
          + (f", {len(report.dropped)} tensors cannot be held by the format" if report.dropped else ""))
