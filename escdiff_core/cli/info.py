"""``info``: what an attribute file holds."""

import argparse
import json
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE")


def run(options: argparse.Namespace) -> None:
    from ..attribute import Attribute

    described = Attribute.load(options.file).describe()
    print(described if isinstance(described, str) else json.dumps(described, indent=1))
