"""The benchmark's tables: intervals over references, leads mix by mix, curves and plots from cells."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

from escdiff_core.bench.contenders import Contender
from escdiff_core.bench.figures import plot
from escdiff_core.bench.plan import Experiment
from escdiff_core.bench.table import SCALE, as_markdown, curves, interval, summary
from escdiff_core.metrics.scores import harmonic_mean


def cells_of(scores, pairs):
    return [{"key": ["x", "mix", i, j, 0, 60.0], "shape": s[0], "appearance": s[1], "prompt": s[2]}
            for s, (i, j) in zip(scores.tolist(), pairs, strict=True)]


def test_the_interval_holds_the_mean_and_shrinks_with_more_references():
    rng, widths = np.random.default_rng(0), {}
    assert interval(cells_of(np.full((3, 3), 0.5), [(0, 0), (0, 1), (0, 2)])) is None, (
        "one shape says nothing of others"
    )
    for side in (2, 3, 10):
        scores = np.clip(rng.normal(0.7, 0.1, (side * side, 3)), 0.05, 1)
        low, high = interval(cells_of(scores, [(i, j) for i in range(side) for j in range(side)]))
        assert low <= harmonic_mean(*scores.mean(0)) <= high
        widths[side] = high - low
    assert widths[10] < widths[3]


def test_mixes_that_share_a_reference_count_as_one_and_a_lead_is_taken_mix_by_mix():
    good, bad = [0.8, 0.8, 1.0], [0.4, 0.4, 1.0]
    pairs = [(i, j) for i in range(4) for j in range(4)]
    by_shape = cells_of(np.array([good if i % 2 else bad for i, _ in pairs]), pairs)
    by_chance = cells_of(
        np.array([good if n in (0, 3, 5, 6, 9, 10, 12, 15) else bad for n in range(16)]), pairs
    )
    assert np.diff(interval(by_shape)) > 1.3 * np.diff(interval(by_chance))
    lower = cells_of(np.array([good if i % 2 else bad for i, _ in pairs]) - 0.1, pairs)
    low, high = interval(by_shape, lower)
    assert 0.05 < low <= high < 0.2 and interval(by_shape, by_shape) == (0, 0)


def test_curves_say_at_which_step_an_attribute_is_there_and_from_which_it_leaks(tmp_path, monkeypatch):
    figures = [(15.0, 20, 0.3, 0.0), (30.0, 40, 0.75, 0.05), (60.0, 80, 0.8, 0.3), (120.0, 160, 0.7, 0.4)]
    mine = [{
        "contender": "one", "budget": b, "question": "", "twin_of": "", "shape_steps": n, "shape_own": own,
        "shape_over": leak
    } for b, n, own, leak in figures]
    nothing = [{**r, "contender": "two", "shape_own": 0.1, "shape_over": 0.0} for r in mine]
    lines = curves(mine + nothing)
    assert (
        "| one | S | 20, 40, 80, 160 | 0.30, 0.75, 0.80, 0.70 | 0.00, 0.05, 0.30, 0.40 | 40 | 80 |"
    ) in lines
    assert "| two | S | 20, 40, 80, 160 | 0.10, 0.10, 0.10, 0.10 | 0.00, 0.00, 0.00, 0.00 |  |  |" in lines
    assert curves(mine[:2]) == []
    twin = [{**r, "contender": "three", "twin_of": "one", "H": 0.5} for r in mine]
    assert curves(twin) == [], "what another learned is told once"
    monkeypatch.setattr(pyplot, "close", lambda figure: None)
    plot(mine + nothing + twin, tmp_path / "plot.png")
    drawn = [len([line for line in axis.lines if len(line.get_xdata())]) for axis in pyplot.gcf().axes
             if axis.get_title() in ("shape: S", "mix: H")]
    assert drawn == [1, 2, 1, 2], "of the twin, only what it mixed"
    own = [axis.lines[0].get_xdata().tolist() for axis in pyplot.gcf().axes if axis.get_title() == "shape: S"]
    assert own == [[15, 30, 60, 120], [20, 40, 80, 160]], "over seconds and over steps"
    assert Image.open(tmp_path / "plot.png").height > 800


def test_the_table_is_the_mean_of_its_cells():
    plan = Experiment((Contender("escdiff"),), {"shape": "ab", "appearance": "ab"}, (60.0,))
    row = {"budget": 60.0, "steps": 9, "seconds": 60.1, "leak": 0.1, "prompt": 1.0, "megabytes": 2.0}
    cells = [{
        "key": ["escdiff", kind, i, 0], "rows": [{**row, "own": own}], "trained_parameters": 5,
        "trained_state_bytes": 6
    } for kind in ("shape", "appearance") for i, own in enumerate((0.2, 0.8))]
    cells += [{"key": ["escdiff", "mix", i, i, 0, 60.0], "shape": s, "appearance": 0.5, "prompt": 1.0}
              for i, s in ((0, 0.4), (1, 0.6))]
    cells += [{"key": ["plain", "mix", 0, 0, 0, 0.0], "shape": 0.0, "appearance": 0.1, "prompt": 1.0}]
    cells += [
        {"key": ["plain", kind, 0, 0], "rows": [{"budget": 0.0, "own": 0.0, "leak": 0.07, "prompt": 1.0}]}
        for kind in ("shape", "appearance")
    ]
    mine, floor = summary(cells, plan)
    twin = summary(cells, replace(plan, contenders=(*plan.contenders, Contender("added", overlap="add"))))[1]
    assert [twin["twin_of"], mine["twin_of"], floor["twin_of"]] == ["escdiff", "", ""] and twin[
        "shape_own"
    ] == mine["shape_own"]
    assert mine["shape_own"] == mine["S"] == pytest.approx(0.5) and mine["H"] == pytest.approx(
        harmonic_mean(0.5, 0.5, 1.0)
    )
    assert floor["contender"] == "plain" and floor["H"] == 0
    assert mine["shape_over"] == pytest.approx(0.1 - 0.07)
    assert "leads" not in mine and floor["leads"][60.0] == pytest.approx([mine["H"], mine["H"]], abs=0.2)
    text = as_markdown(
        [mine, floor], {
            "title": "T", "command": "c", "date": "d", "machine": "m", "notes": ["n"],
            "scales": {"shape": {"a": dict.fromkeys(SCALE, 0.25)}}
        })
    assert "| shape: a | 0.25 |" in text
    assert (
        "| escdiff | 0.50 | 0.10 | 0.03 | 1.00 | 0.50 | 0.10 | 0.03 | 1.00 | 0.50 | 0.50 | 1.00 | 0.60 |"
    ) in text
