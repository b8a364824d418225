"""The scripts that measure still find what they use."""

import importlib.util
import sys

import pytest
from family_zoo import tiny_family_model
from hosts import ROOT
from method_zoo import QUICK

SCRIPTS = sorted((ROOT / "benchmarks").rglob("*.py"))


def run(script, monkeypatch):
    """The module that a script is."""
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    spec = importlib.util.spec_from_file_location(f"benchmark_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: str(p.relative_to(ROOT / "benchmarks")))
def test_it_can_be_imported(script, monkeypatch):
    run(script, monkeypatch)


def test_memory_is_counted_as_on_a_gpu(monkeypatch):
    memory, model = run(ROOT / "benchmarks" / "memory.py", monkeypatch), tiny_family_model("sd2")
    monkeypatch.setattr(memory.tune, "for_training", memory.as_on_a_gpu)
    rows = memory.measure(model, model.native_size, 1, QUICK)
    assert len(rows) == 2 and all("2 of 2 | no" in row for row in rows), rows
