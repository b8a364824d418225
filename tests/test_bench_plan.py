"""What the benchmark plans: which subjects, pairs and rates, and what is learned but once."""

import json
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from escdiff_core.bench import run as bench_run
from escdiff_core.bench.contenders import (
    ABLATIONS,
    BEST,
    BEST_DENOISE,
    CONTENDERS,
    DENOISES,
    FACTORS,
    RATES,
    Contender,
)
from escdiff_core.bench.plan import Experiment, Store
from escdiff_core.bench.protocol import Subject, appearance_references, shape_references
from escdiff_core.cli import bench as command
from escdiff_core.errors import ESCDiffError
from escdiff_core.families.load import load_model
from escdiff_core.learning.recipes import RECIPES
from escdiff_core.metrics.scores import harmonic_mean


def test_the_field_s_rates_are_the_best_that_were_measured():
    rows = json.loads((Path(__file__).parent.parent / "benchmarks" / "rates.json").read_text())["rows"]
    for name, best in BEST.items():
        for kind, factor in best.items():
            tried = {
                int(r["contender"].split(" x")[1]): r for r in rows if r["contender"].startswith(f"{name} x")
            }
            scores = {
                f: harmonic_mean(r[f"{kind}_own"], r[f"{kind}_prompt"], 1 - r[f"{kind}_leak"])
                for f, r in tried.items()
            }
            assert len(scores) > 2 and scores[factor] == max(scores.values()), (name, kind)
    concepts = {
        c.name
        for c in CONTENDERS.values()
        if RECIPES[c.recipes["shape"]].kind == "concept" and c.overlap == "add"
    }
    assert set(BEST) <= concepts, "what was never searched keeps its paper's rates"
    for kind, denoise in BEST_DENOISE.items():
        tried = {d: next(r for r in rows if r["contender"] == f"image-to-image at {d}") for d in DENOISES}
        scores = {
            d: harmonic_mean(r[f"{kind}_own"], r[f"{kind}_prompt"], 1 - r[f"{kind}_leak"])
            for d, r in tried.items()
        }
        assert scores[denoise] == max(scores.values()), kind


def test_a_contender_of_the_field_learns_at_its_published_rates_times_one_factor():
    assert set(BEST) <= set(CONTENDERS) and {f for best in BEST.values() for f in best.values()} <= set(
        FACTORS
    )
    for name in ("dreambooth", "p-plus x30"):
        contender, published = (RATES | CONTENDERS)[name], RECIPES[name.split(" x")[0]]
        for kind in ("shape", "appearance"):
            factor = 30 if name == "p-plus x30" else BEST.get(name, {}).get(kind, 1)
            rates = [getattr(contender.recipe(kind), k) for k in ("lr_weights", "lr_token")]
            assert rates == pytest.approx([factor * published.lr_weights, factor * published.lr_token])


def test_what_is_learned_in_the_same_way_is_learned_once():
    subjects = {"shape": "ab", "appearance": "ab"}
    chosen = [
        CONTENDERS["escdiff"],
        CONTENDERS["style-aligned"],
        ABLATIONS["preset whole"],
        CONTENDERS["escdiff-paper"],
    ]
    plan = Experiment(chosen, subjects, (1.0,))
    learned = [key for stage in plan.stages()[1:] for key in stage if key[1] == "shape" and key[2] == 0]
    assert [key[0] for key in learned] == ["escdiff", "escdiff-paper", "plain"], (
        "a whole UNet is the default for a shape"
    )
    assert plan.sources["style-aligned", "appearance"] == "style-aligned", "what is shown is its own"
    assert plan.sources["preset whole", "appearance"] == "preset whole"
    fast, slow = (RATES[f"dreambooth x{factor}"] for factor in (10, 30))
    plan = Experiment([fast, slow], subjects, (1.0,))
    assert plan.sources[slow.name, "shape"] == slow.name and plan.paces[slow.name, "shape"] == fast.name
    assert plan.stages()[0] == [(fast.name, "rate", kind) for kind in subjects]


def test_the_overlap_counts_for_mixes_of_two_that_were_learned_alone(checkpoint, tmp_path):
    chosen = [CONTENDERS[name] for name in ("escdiff", "escdiff-added", "style-aligned")]
    chosen.append(replace(chosen[-1], name="style-aligned-added", overlap="add"))
    subjects = {kind: [Subject.of_spec(kind, references(1)[0])] for kind, references in
                (("shape", shape_references), ("appearance", appearance_references))}
    plan = Experiment(chosen, subjects, (1.0,))
    bench = bench_run.Bench(load_model(checkpoint, "cpu"), plan, Store(tmp_path))
    for key in plan.stages()[0]:
        bench.store.put(key, bench.identity(key), {"setup": 0.0, "step": 0.1})
    mixes, learned = (
        [bench.identity((c.name, *key)) for c in chosen] for key in (("mix", 0, 0, 0, 1.0), ("shape", 0, 0))
    )
    assert mixes[0] != mixes[1] and mixes[2] == mixes[3] and len(set(learned)) == 1


@pytest.mark.parametrize("count", [4, 5, 7])
def test_pairs_use_every_subject_equally_often(count):
    pairs = Experiment((), {"shape": "abcdefg"[:count], "appearance": "tuvwxyz"[:count]}, (1.0,)).pairs()
    assert len(set(pairs)) == 2 * count and all(
        [p[side] for p in pairs].count(n) == 2 for side in (0, 1) for n in range(count)
    )


def test_pairs_come_with_the_stage_that_learned_them():
    plan = Experiment((), {"shape": "abcd", "appearance": "wxyz"}, (1.0,))
    pairs = plan.pairs()
    assert len(Experiment((), {"shape": "abc", "appearance": "xyz"}, (1.0,)).pairs()) == 9
    assert {max(p) // 2 for p in pairs if min(p) < 2} == {0}, (
        "the first two of each kind are a table of their own"
    )
    stages = Experiment((Contender("escdiff"),), {"shape": "abcd", "appearance": "wxyz"}, (1.0, 2.0)).stages()
    learned = set()
    for stage in stages[1:]:
        learned |= {key[1:3] for key in stage if key[1] != "mix"}
        assert all({("shape", key[2]), ("appearance", key[3])} <= learned for key in stage if key[1] == "mix")


def test_subjects_put_the_rest_of_their_picture_into_words():
    shape, appearance = (Subject.of_spec(kind, references(1)[0]) for kind, references in
                         (("shape", shape_references), ("appearance", appearance_references)))
    assert (
        shape.class_word == "" and " appearance on a" in shape.describe and shape.words[1] in shape.describe
    )
    assert (
        appearance.class_word == appearance.words[0]
        and appearance.describe == f"on a {appearance.background} background"
    )


@pytest.mark.parametrize("device, arguments, wanted",
                         [("cpu", [], (4, 4, 1)), ("cpu", ["--quick"], (1, 1, 1)), ("cuda", [], (9, 8, 3)),
                          ("cuda", ["--quick"], (1, 1, 1)),
                          ("cuda", ["--shapes", "2", "--seeds", "2"], (2, 8, 2))])
def test_a_gpu_gets_all_references_and_more_seeds(device, arguments, wanted, tmp_path, monkeypatch):
    model, found = SimpleNamespace(device=SimpleNamespace(type=device), native_size=256), []
    monkeypatch.setattr("escdiff_core.families.load.load_model", lambda *_: model)
    monkeypatch.setattr(bench_run, "Bench", lambda model, plan, store: found.append(plan))
    # a second for each subject
    monkeypatch.setattr(bench_run.protocol, "Judge", SimpleNamespace(of_spec=lambda spec: None))

    def stop(*_):
        raise ESCDiffError("far enough")

    monkeypatch.setattr(bench_run, "run", stop)
    parser = ArgumentParser()
    command.add(parser)
    with pytest.raises(ESCDiffError, match="far enough"):
        command.run(parser.parse_args(["--recipes", "textual-inversion", "--out", str(tmp_path), *arguments]))
    assert found[0].subjects["shape"][0].reference.image.shape == (256, 256, 3), "the model's own size"
    assert (len(found[0].subjects["shape"]), len(found[0].subjects["appearance"]), found[0].seeds) == wanted
