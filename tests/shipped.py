"""The workflows that ship, their builder, and what is saved of the nodes in them."""

import importlib.util
import json
from pathlib import Path

WORKFLOWS = Path(__file__).resolve().parent.parent / "example_workflows"


def _load_builder():
    spec = importlib.util.spec_from_file_location("build_workflows", WORKFLOWS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


builder = _load_builder()
DEFINITIONS = json.loads(builder.DEFINITIONS.read_text("utf-8"))
GRAPHS = builder.graphs()
