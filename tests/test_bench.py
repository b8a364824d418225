"""The benchmark: every cell once, resumed where it stopped, tables from cells, and a sentence for what it cannot use."""

import json
from dataclasses import replace

import numpy as np
import pytest
from method_zoo import disc, write_tiny
from PIL import Image

from escdiff_core.bench import run as bench_run
from escdiff_core.bench.contenders import ABLATIONS, CONTENDERS, Contender
from escdiff_core.bench.protocol import Subject, appearance_references, shape_references
from escdiff_core.bench.run import Plan, Store
from escdiff_core.bench.table import SCALE, as_markdown, interval, summary
from escdiff_core.cli import main
from escdiff_core.method.recipes import RECIPES
from escdiff_core.metrics.scores import harmonic_mean


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture
def quick(monkeypatch):
    """Recipes, pictures and sampling as small as they get."""
    for name, recipe in RECIPES.items():
        monkeypatch.setitem(RECIPES, name, replace(recipe, batch_size=1, views=1, rank=2))
    monkeypatch.setattr(bench_run.protocol, "PICTURES", 1)
    for kind, draw in bench_run.protocol.DRAW.items():
        monkeypatch.setitem(bench_run.protocol.DRAW, kind, lambda *a, draw=draw, **k: draw(*a, steps=1, count=1, **k))
    whole = bench_run.protocol.draw_mix
    monkeypatch.setattr(bench_run.protocol, "draw_mix", lambda *a, **k: whole(*a, steps=1, count=1, **k))


def bench(checkpoint, out, *more):
    return main(["bench", "--model", str(checkpoint), "--device", "cpu", "--out", str(out), "--shapes", "1", "--appearances", "1",
                 "--budgets", "0.01", "0.02", *map(str, more)])


def test_every_contender_has_a_recipe_for_both_kinds_and_every_ablation_a_question():
    for contender in (*CONTENDERS.values(), *ABLATIONS.values()):
        assert {kind: contender.recipe(kind).kind for kind in ("shape", "appearance")} == {k: k for k in ("shape", "appearance")}
    assert {n for n, r in RECIPES.items() if r.kind == "concept"} < set(CONTENDERS)
    assert all(a.question.endswith("?") for a in ABLATIONS.values())
    hashes = {json.dumps([a.recipe(k).hash() for k in ("shape", "appearance")] + [a.pretrained, a.encoder, a.describe, a.styled])
              for a in ABLATIONS.values()}
    assert len(hashes) == len(ABLATIONS), "every ablation changes something"


def test_a_run_measures_every_cell_and_a_second_one_nothing(checkpoint, quick, tmp_path, capsys, monkeypatch):
    names = ["textual-inversion", "escdiff-paper", "style-aligned"]
    assert bench(checkpoint, tmp_path, "--recipes", *names) == 0
    report = json.loads((tmp_path / "table.json").read_text())
    keys = [tuple(c["key"]) for c in report["cells"]]
    assert len(keys) == len(set(keys)) == 3 * 2 + 2 + 1 + 3 * 2      # learned; the plain model; mixes at two budgets
    for cell in report["cells"]:
        if cell["key"][1] != "mix" and cell["key"][0] in names[:2]:
            assert [r["budget"] for r in cell["rows"]] == [0.01, 0.02]
            first, second = cell["rows"]
            assert first["steps"] <= second["steps"] and first["megabytes"] > 0
    assert {"table.md", "plot.png", "sheet.png", "cells.jsonl"} <= {p.name for p in tmp_path.iterdir()}
    assert all(name in (tmp_path / "table.md").read_text() for name in (*names, "plain"))

    monkeypatch.setattr(bench_run, "learn", lambda *a: pytest.fail("measured again"))
    monkeypatch.setattr(bench_run, "mix", lambda *a: pytest.fail("measured again"))
    assert bench(checkpoint, tmp_path, "--recipes", *names) == 2 and "--resume" in capsys.readouterr().err
    assert bench(checkpoint, tmp_path, "--recipes", *names, "--resume") == 0
    assert json.loads((tmp_path / "table.json").read_text())["cells"] == report["cells"]


def test_a_run_that_was_cut_off_in_a_line_goes_on_and_a_changed_recipe_is_measured_anew(tmp_path):
    store = Store(tmp_path)
    store.put(("a", "shape", 0, 0), "model recipe", {"x": 1})
    store.put(("b", "shape", 0, 0), "model recipe", {"x": 2})
    text = store.path.read_text()
    store.path.write_text(text[:-9])
    again = Store(tmp_path)
    assert again.get(("a", "shape", 0, 0), "model recipe")["x"] == 1
    assert again.get(("b", "shape", 0, 0), "model recipe") is None and again.get(("a", "shape", 0, 0), "other recipe") is None
    again.put(("b", "shape", 0, 0), "model recipe", {"x": 3})
    assert Store(tmp_path).get(("b", "shape", 0, 0), "model recipe")["x"] == 3


def test_own_pictures_are_references(checkpoint, quick, tmp_path):
    folder = tmp_path / "references"
    folder.mkdir()
    for name in ("shape_disc", "appearance_disc"):
        Image.fromarray((disc((128, 128)).image * 255).astype(np.uint8)).save(folder / f"{name}.png")
        Image.fromarray((disc((128, 128)).mask * 255).astype(np.uint8)).save(folder / f"{name}.mask.png")
    assert bench(checkpoint, tmp_path / "out", "--recipes", "textual-inversion", "--references", folder) == 0
    assert "disc" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize("arguments, words", [
    (["--recipes", "lora"], "unknown contender 'lora'; known: b-lora"),
    (["--budgets", "0"], "above 0"), (["--budgets", "inf"], "above 0"), (["--shapes", "0"], "at least 1"),
    (["--references", "."], "holds no shape_"), (["--seeds", "0"], "at least 1"),
])
def test_what_cannot_be_used_is_one_sentence(arguments, words, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "--model", str(checkpoint), "--device", "cpu", "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_subjects_put_the_rest_of_their_picture_into_words():
    shape, appearance = (Subject.of_spec(kind, references(1)[0]) for kind, references in
                         (("shape", shape_references), ("appearance", appearance_references)))
    assert shape.class_word == "" and " appearance on a" in shape.describe and shape.words[1] in shape.describe
    assert appearance.class_word == appearance.words[0] and appearance.describe == f"on a {appearance.background} background"


def test_pairs_use_every_subject_equally_often():
    plan = Plan((), {"shape": "abcd", "appearance": "wxyz"}, (1.0,))
    pairs = plan.pairs()
    assert len(set(pairs)) == 8 and all([p[side] for p in pairs].count(n) == 2 for side in (0, 1) for n in range(4))
    assert len(Plan((), {"shape": "abc", "appearance": "xyz"}, (1.0,)).pairs()) == 9


def test_the_interval_holds_the_mean_and_shrinks_with_more_mixes():
    rng = np.random.default_rng(0)
    few, many = (np.clip(rng.normal(0.7, 0.1, (n, 3)), 0.05, 1) for n in (4, 100))
    for scores in (few, many):
        low, high = interval(scores)
        assert low <= harmonic_mean(*scores.mean(0)) <= high
    assert np.diff(interval(many)) < np.diff(interval(few))


def test_the_table_is_the_mean_of_its_cells():
    plan = Plan((Contender("escdiff"),), {"shape": "ab", "appearance": "ab"}, (60.0,))
    row = {"budget": 60.0, "steps": 9, "seconds": 60.1, "leak": 0.1, "prompt": 1.0, "megabytes": 2.0}
    cells = [{"key": ["escdiff", kind, i, 0], "rows": [{**row, "own": own}], "trained_parameters": 5, "trained_state_bytes": 6}
             for kind in ("shape", "appearance") for i, own in enumerate((0.2, 0.8))]
    cells += [{"key": ["escdiff", "mix", i, i, 0, 60.0], "shape": s, "appearance": 0.5, "prompt": 1.0}
              for i, s in ((0, 0.4), (1, 0.6))]
    cells += [{"key": ["plain", "mix", 0, 0, 0, 0.0], "shape": 0.0, "appearance": 0.1, "prompt": 1.0}]
    cells += [{"key": ["plain", kind, 0, 0], "rows": [{"budget": 0.0, "own": 0.0, "leak": 0.07, "prompt": 1.0}]}
              for kind in ("shape", "appearance")]
    mine, floor = summary(cells, plan)
    assert mine["shape_own"] == mine["S"] == pytest.approx(0.5) and mine["H"] == pytest.approx(harmonic_mean(0.5, 0.5, 1.0))
    assert floor["contender"] == "plain" and floor["H"] == 0
    assert mine["shape_over"] == pytest.approx(0.1 - 0.07)
    text = as_markdown([mine, floor], {"title": "T", "command": "c", "date": "d", "machine": "m", "notes": ["n"],
                                       "scales": {"shape": {"a": dict.fromkeys(SCALE, 0.25)}}})
    assert "| shape: a | 0.25 |" in text
    assert "| escdiff | 0.50 | 0.10 | 0.03 | 1.00 | 0.50 | 0.10 | 0.03 | 1.00 | 0.50 | 0.50 | 1.00 | 0.60 |" in text
