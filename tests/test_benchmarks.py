"""The scripts that measure still find what they use."""

import importlib.util
import sys

import pytest
from hosts import ROOT
from method_zoo import QUICK
from pretend_card import card

from escdiff_core.families.load import load_model

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


def test_a_whole_learning_is_counted_stage_by_stage(monkeypatch, checkpoint):
    memory = run(ROOT / "benchmarks" / "memory.py", monkeypatch)
    with card() as taken:
        model = load_model(checkpoint, "cuda")
        own = taken.now
        report, peaks = memory.measure(model, taken, "escdiff-appearance", 64, QUICK)
    assert list(peaks) == list(memory.STAGES) and all(peak > own for peak in peaks.values()), (own, peaks)
    # beside what was measured before: what trains, in fp32, and its average
    kept = 2 * 4 * report.trained_parameters
    assert peaks["steps"] - own == pytest.approx(report.needed_bytes + kept, rel=0.02)
