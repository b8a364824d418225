"""The benchmark: every cell once, resumed where it stopped, tables from cells, and a sentence for what it
cannot use."""

import json
from argparse import ArgumentParser
from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace

import numpy as np
import pytest
from method_zoo import disc
from PIL import Image

from escdiff_core.attribute.tensors import channel_norms
from escdiff_core.bench import run as bench_run
from escdiff_core.bench.contenders import ABLATIONS, BEST, CONTENDERS
from escdiff_core.bench.plan import Experiment, Store
from escdiff_core.bench.protocol import Subject, appearance_references, shape_references
from escdiff_core.cli import bench as command
from escdiff_core.cli import main
from escdiff_core.errors import ESCDiffError
from escdiff_core.families.load import load_model
from escdiff_core.learning.recipes import RECIPES

OF_SPEC = Subject.of_spec


@pytest.fixture
def quick(monkeypatch):
    shorten(monkeypatch)
    monkeypatch.setattr(Subject, "of_spec", known_subject)


@cache
def known_subject(*given) -> Subject:
    """A held-out subject, whose judge takes a second to make."""
    return OF_SPEC(*given)


def shorten(patch):
    """Recipes, pictures and sampling as small as they get."""
    for name, recipe in RECIPES.items():
        patch.setitem(RECIPES, name, replace(recipe, batch_size=1, views=1, rank=2))
    patch.setattr(bench_run, "WARM", 0)
    patch.setattr(bench_run, "TIMED", 1)
    for kind, draw in bench_run.protocol.DRAW.items():
        patch.setitem(
            bench_run.protocol.DRAW, kind, lambda *a, draw=draw, **k: draw(*a, steps=1, count=1, **k)
        )
    whole = bench_run.protocol.draw_mix
    patch.setattr(bench_run.protocol, "draw_mix", lambda *a, **k: whole(*a, steps=1, count=1, **k))


def load_in_a_worker(path):
    shorten(pytest.MonkeyPatch())
    return load_model(path, "cpu")


def bench(checkpoint, out, *more):
    return main([
        "bench", "--model",
        str(checkpoint), "--device", "cpu", "--out",
        str(out), "--shapes", "1", "--appearances", "1", "--budgets", "0.01", "0.02", *map(str, more)
    ])


def test_every_contender_has_a_recipe_for_both_kinds_and_every_ablation_a_question():
    for contender in (*CONTENDERS.values(), *ABLATIONS.values()):
        assert {kind: contender.recipe(kind).kind for kind in ("shape", "appearance")} == {
            k: k for k in ("shape", "appearance")
        }
    assert {n for n, r in RECIPES.items() if r.kind == "concept"} < {*CONTENDERS, *ABLATIONS}
    assert all(a.question.endswith("?") for a in ABLATIONS.values())
    hashes = {(a.overlap, *(a.way(k) for k in ("shape", "appearance"))) for a in ABLATIONS.values()}
    assert len(hashes) == len(ABLATIONS), "every ablation changes something"


def test_a_contender_whose_kinds_change_the_same_weights_is_mixed_in_both_ways(checkpoint, tmp_path, quick):
    model, ways = load_model(checkpoint, "cpu"), {}
    bench = bench_run.Bench(model, Experiment((), {}, ()), Store(tmp_path))
    subject = SimpleNamespace(reference=disc(), describe="", class_word="")
    for c in CONTENDERS.values():
        if c.learns("shape") and c.learns("appearance"):
            kinds = [
                channel_norms(bench.tuner(c, kind, subject, 0).attribute().delta)
                for kind in ("shape", "appearance")
            ]
            ways.setdefault(
                (bool(kinds[0].keys() & kinds[1].keys()), c.way("shape"), c.way("appearance")), []
            ).append(c.overlap)
    for (meet, *_), overlaps in ways.items():
        assert sorted(overlaps) == (["add", "divide"] if meet else ["add"])
    assert sum(meet for meet, *_ in ways) >= 5 and CONTENDERS["escdiff"].overlap == "divide", (
        "the default's way is the mixes' own"
    )


def test_a_run_measures_every_cell_and_a_second_one_nothing(checkpoint, quick, tmp_path, capsys, monkeypatch):
    names = ["textual-inversion", "escdiff-paper", "style-aligned", "nothing learned"]
    assert bench(checkpoint, tmp_path, "--recipes", *names) == 0
    report = json.loads((tmp_path / "table.json").read_text())
    keys = [tuple(c["key"]) for c in report["cells"]]
    # speeds; learned or shown, with the plain model; mixes at two budgets and of the two that learn nothing
    assert len(keys) == len(set(keys)) == 5 + 5 * 2 + 3 * 2 + 2
    for cell in report["cells"]:
        if cell["key"][1] == "rate":
            assert cell["step"] > 0 and cell["trained_parameters"] > 0
        elif cell["key"][1] != "mix" and cell["key"][0] in names[:2]:
            assert [r["budget"] for r in cell["rows"]] == [0.01, 0.02]
            first, second = cell["rows"]
            assert first["steps"] <= second["steps"] and first["megabytes"] > 0
    assert {"table.md", "plot.png", "sheet.png", "cells.jsonl"} <= {p.name for p in tmp_path.iterdir()}
    assert all(name in (tmp_path / "table.md").read_text() for name in (*names, "plain"))

    monkeypatch.setattr(bench_run.Bench, "measure", lambda *a: pytest.fail("measured again"))
    whole = Image.open(tmp_path / "sheet.png").convert("RGB")
    for gone in (tmp_path / "files").glob("textual_inversion*.png"):
        gone.unlink()
    assert bench(checkpoint, tmp_path, "--recipes", *names) == 2 and "--resume" in capsys.readouterr().err
    assert bench(checkpoint, tmp_path, "--recipes", *names, "--resume") == 0
    assert json.loads((tmp_path / "table.json").read_text())["cells"] == report["cells"]
    left = Image.open(tmp_path / "sheet.png").convert("RGB")
    assert left.height == whole.height and left.tobytes() != whole.tobytes(), (
        "a row whose pictures are gone stays, in grey"
    )


def test_a_run_that_was_cut_off_in_a_line_goes_on_and_a_changed_recipe_is_measured_anew(tmp_path):
    store = Store(tmp_path)
    store.put(("a", "shape", 0, 0), "model recipe", {"x": 1})
    store.put(("b", "shape", 0, 0), "model recipe", {"x": 2})
    text = store.path.read_text()
    store.path.write_text(text[:-9])
    again = Store(tmp_path)
    assert again.get(("a", "shape", 0, 0), "model recipe")["x"] == 1
    assert (
        again.get(("b", "shape", 0, 0), "model recipe") is None
        and again.get(("a", "shape", 0, 0), "other recipe") is None
    )
    again.put(("b", "shape", 0, 0), "model recipe", {"x": 3})
    assert Store(tmp_path).get(("b", "shape", 0, 0), "model recipe")["x"] == 3


def test_pictures_are_drawn_with_the_model_s_usual_guidance(checkpoint, tmp_path):
    plan = Experiment((), {"shape": (), "appearance": ()}, (1.0,))
    assert [
        bench_run.Bench(load_model(m, "cpu"), plan, Store(tmp_path)).guidance for m in ("pocket", checkpoint)
    ] == [3, 6]


def test_factors_that_suit_the_pocket_are_not_taken_for_another_model(checkpoint, tmp_path, monkeypatch):
    def stop(bench, *_):
        raise ESCDiffError(f"stopped with {bench.plan.contenders[0].rates}")

    monkeypatch.setattr(bench_run, "run", stop)
    assert BEST["dreambooth"]["shape"] > 1
    with pytest.raises(ESCDiffError, match=r"stopped with \{\}"):
        command.run(options_of("--model", str(checkpoint), "--recipes", "dreambooth", "--out", str(tmp_path)))
    with pytest.raises(ESCDiffError, match=r"stopped with \{.shape.: 30"):
        command.run(options_of("--recipes", "dreambooth", "--out", str(tmp_path)))


def options_of(*arguments):
    parser = ArgumentParser()
    command.add(parser)
    return parser.parse_args([*arguments, "--shapes", "1", "--appearances", "1", "--device", "cpu"])


def test_another_budget_is_measured_anew_also_for_what_learns_nothing(
    checkpoint, quick, tmp_path, monkeypatch
):
    # no budget buys a step
    monkeypatch.setattr(bench_run.Bench, "rate", lambda self, key: {"setup": 0.0, "step": 1.0})
    names = ["style-aligned", "nothing learned", "textual-inversion"]
    assert bench(checkpoint, tmp_path, "--recipes", *names) == 0
    assert bench(checkpoint, tmp_path, "--recipes", *names, "--resume", "--budgets", "0.03") == 0
    rows = {
        (r["contender"], r["budget"]): r for r in json.loads((tmp_path / "table.json").read_text())["rows"]
    }
    assert set(rows) == {("style-aligned", 0.03), ("nothing learned", 0.0), ("textual-inversion", 0.03),
                         ("plain", 0.0)}
    assert all("appearance_own" in row and "H" in row for row in rows.values())


def test_weights_that_run_away_score_nothing_and_the_rest_goes_on(checkpoint, quick, tmp_path, monkeypatch):
    def boom(tuner):
        raise ESCDiffError("the learning ran away")

    monkeypatch.setattr(bench_run.Bench, "rate", lambda self, key: {"setup": 0.0, "step": 0.01})
    monkeypatch.setattr(bench_run.Tuner, "attribute", boom)
    assert bench(checkpoint, tmp_path, "--recipes", "textual-inversion") == 0
    report = json.loads((tmp_path / "table.json").read_text())
    row = next(r for r in report["rows"] if r["contender"] == "textual-inversion")
    assert row["H"] == row["shape_own"] == 0 and row["failed"] == 2 * 2 + 2
    assert "textual-inversion: 6 figures are 0" in (tmp_path / "table.md").read_text()


def test_a_mix_whose_files_are_gone_learns_them_again(checkpoint, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_run.Bench, "rate", lambda self, key: {"setup": 0.0, "step": 0.01})
    assert bench(checkpoint, tmp_path, "--recipes", "textual-inversion") == 0
    first = json.loads((tmp_path / "table.json").read_text())["rows"]
    cells = (tmp_path / "cells.jsonl").read_text().splitlines()
    (tmp_path / "cells.jsonl").write_text("\n".join(c for c in cells if '"mix"' not in c))
    for path in (tmp_path / "files").iterdir():
        path.unlink()
    assert bench(checkpoint, tmp_path, "--recipes", "textual-inversion", "--resume") == 0
    assert json.loads((tmp_path / "table.json").read_text())["rows"] == first


def test_own_pictures_are_references(checkpoint, quick, tmp_path):
    folder = tmp_path / "references"
    folder.mkdir()
    for name, size in {"shape_disc": (128, 192), "appearance_disc": (128, 128)}.items():
        Image.fromarray((disc(size).image * 255).astype(np.uint8)).save(folder / f"{name}.png")
        Image.fromarray((disc(size).mask * 255).astype(np.uint8)).save(folder / f"{name}.mask.png")
    names = ["textual-inversion", "nothing learned", "image-to-image"]
    assert bench(checkpoint, tmp_path / "out", "--recipes", *names, "--references", folder) == 0
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert {r["contender"] for r in rows if "H" in r} == {"textual-inversion", "nothing learned", "plain"}
    assert "disc" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize("arguments, words", [
    (["--recipes", "lora"], "unknown contender 'lora'; known: b-lora"),
    (["--budgets", "0"], "above 0"), (["--budgets", "inf"], "above 0"), (["--shapes", "0"], "at least 1"),
    (["--references", "."], "holds no shape_"), (["--seeds", "0"], "at least 1"),
    (["--workers", "0"], "at least 1"), (["--skip", "-1"], "at least 0"),
    (["--skip", "15"], "15 held-out shapes, 19 were asked for"),
])
def test_what_cannot_be_used_is_one_sentence(arguments, words, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(
        ["bench", "--model",
         str(checkpoint), "--device", "cpu", "--out",
         str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_workers_measure_what_one_process_does(checkpoint, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_run.Bench, "rate", lambda self, key: {"setup": 0.0, "step": 0.01})
    subjects = {kind: [Subject.of_spec(kind, references(1)[0])] for kind, references in
                (("shape", shape_references), ("appearance", appearance_references))}
    plan, found = Experiment((CONTENDERS["textual-inversion"],), subjects, (0.02,)), []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        bench = bench_run.Bench(load_model(checkpoint, "cpu"), plan, Store(folder))
        found.append(bench_run.run(bench, workers, partial(load_in_a_worker, checkpoint), lambda *_: None))
    assert [c["key"] for c in found[0]] == [c["key"] for c in found[1]]
    rows = [[r for c in cells if "rows" in c for r in c["rows"]] for cells in found]
    assert [r.get("steps") for r in rows[0]] == [r.get("steps") for r in rows[1]] == [2, 2, None, None]
    for one, two in zip(*rows, strict=True):
        assert one["own"] == pytest.approx(two["own"], abs=0.05)
