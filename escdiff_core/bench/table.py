"""The benchmark's cells as tables, plots and a sheet. H carries a 95 % interval from resampling mixes (bootstrap)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..metrics.scores import harmonic_mean
from ..pictures import draw_sheet, save_report, save_text
from .contenders import Contender
from .run import PLAIN, Plan, Store

RESAMPLES = 2000
SCALE = ("iou_floor", "iou_ceiling", "colour_floor", "colour_ceiling", "texture_floor", "texture_ceiling")
Rows = list[dict]


def summary(cells: Sequence[dict], plan: Plan) -> Rows:
    """One row per contender and budget: means over subjects, pairs and seeds, and the interval of the mix's H."""
    rows = []
    for contender in (*plan.contenders, Contender(PLAIN, question="What is there without any attribute?")):
        mine = [c for c in cells if c["key"][0] == contender.name]
        for budget in plan.budgets if contender.name != PLAIN else (0.0,):
            row = {"contender": contender.name, "question": contender.question, "budget": budget}
            for kind in ("shape", "appearance"):
                learned = [c for c in mine if c["key"][1] == kind]
                at = [r for c in learned for r in c["rows"] if r["budget"] == budget]
                row |= {f"{kind}_{k}": float(np.mean([r[k] for r in at])) for k in ("own", "leak", "prompt", "steps", "seconds",
                                                                                    "megabytes") if at and k in at[0]}
                row |= {f"{kind}_{k}": learned[0][k] for k in ("trained_parameters", "trained_state_bytes")
                        if learned and k in learned[0]}
            row |= _mixes([c for c in mine if c["key"][1] == "mix" and c["key"][5] == budget])
            rows.append(row)
    for row in rows:           # what the prompt alone brings of a reference is no leak: the last row is the plain model
        row |= {f"{kind}_over": row[f"{kind}_leak"] - rows[-1][f"{kind}_leak"] for kind in ("shape", "appearance")
                if f"{kind}_leak" in row and f"{kind}_leak" in rows[-1]}
    return rows


def _mixes(cells: Sequence[dict]) -> dict:
    """S, A, P and H of the mean over mixes, and H's interval."""
    if not cells:
        return {}
    scores = np.array([[c["shape"], c["appearance"], c["prompt"]] for c in cells])
    low, high = interval(scores)
    return {**dict(zip(("S", "A", "P"), scores.mean(0).tolist(), strict=True)), "H": harmonic_mean(*scores.mean(0).tolist()),
            "H_low": low, "H_high": high, "mixes": len(cells)}


def interval(scores: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of H of the mean scores (n, 3), by the percentile bootstrap over the n rows."""
    rng = np.random.default_rng(seed)
    means = scores[rng.integers(0, len(scores), (RESAMPLES, len(scores)))].mean(1)          # (resamples, 3)
    low, high = np.percentile([harmonic_mean(*m) for m in means.tolist()], (2.5, 97.5))
    return float(low), float(high)


def as_markdown(rows: Rows, about: Mapping[str, object]) -> str:
    """The table as a page: a section per budget, the best mix first."""
    lines = [f"# {about['title']}", "", f"`{about['command']}`, {about['date']}, {about['machine']}.", "", *about["notes"], ""]
    for budget in dict.fromkeys(r["budget"] for r in rows if r["contender"] != PLAIN):
        asks = any(r["question"] for r in rows if r["budget"] == budget)
        lines += [f"## {budget:g} s of learning for each attribute", "",
                  "| contender | shape: S | leak | over plain | P | appearance: A | leak | over plain | P | mix: S | A | P | H "
                  f"| 95 % | steps | MB |{' question |' if asks else ''}", "|---|" + "---|" * (15 + asks)]
        of_budget = [r for r in rows if r["budget"] == budget or r["contender"] == PLAIN]
        for r in sorted(of_budget, key=lambda r: -r.get("H", 0)):
            cells = [_figure(r.get(f"{kind}_{k}")) for kind in ("shape", "appearance") for k in ("own", "leak", "over", "prompt")]
            cells += [_figure(r.get(k)) for k in ("S", "A", "P", "H")]
            cells.append(f"{r['H_low']:.2f}-{r['H_high']:.2f}" if "H_low" in r else "")
            for what, form in (("steps", "{:.0f}"), ("megabytes", "{:.1f}")):
                cells.append(" + ".join(form.format(r[f"{k}_{what}"]) for k in ("shape", "appearance") if f"{k}_{what}" in r))
            lines.append(f"| {r['contender']} | " + " | ".join(cells + ([r["question"]] if asks else [])) + " |")
        lines.append("")
    lines += ["## What 0 and 1 mean for each reference", "", "| reference | IoU at S = 0 | at S = 1 | colour distance at A = 0 "
              "| at A = 1 | texture distance at A = 0 | at A = 1 |", "|---|---|---|---|---|---|---|"]
    for kind, scales in about["scales"].items():
        lines += [f"| {kind}: {name} | " + " | ".join(f"{s[k]:.3g}" for k in SCALE) + " |" for name, s in scales.items()]
    return "\n".join([*lines, ""])


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def plot(rows: Rows, path: Path) -> None:
    """H, fidelity and leak over seconds of learning, a line per contender."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {"mix: H": "H", "shape: S": "shape_own", "shape: leak": "shape_leak", "appearance: A": "appearance_own",
              "appearance: leak": "appearance_leak"}
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.2 * len(panels), 4), sharex=True)
    for (title, key), axis in zip(panels.items(), axes, strict=True):
        for number, name in enumerate(dict.fromkeys(r["contender"] for r in rows if r["contender"] != PLAIN)):
            own = [r for r in rows if r["contender"] == name and key in r]
            axis.plot([r["budget"] for r in own], [r[key] for r in own], label=name, marker="o",
                      color=pyplot.get_cmap("tab20")(number % 20), linewidth=2.5 if name == "escdiff" else 1.2)
        axis.set(title=title, xlabel="seconds of learning", ylim=(0, 1))
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncol=7, fontsize=8)
    figure.tight_layout(rect=(0, 0.16, 1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def sheet(plan: Plan, store: Store, path: Path) -> None:
    """At the largest budget: all contenders side by side on the first references, or all that a single one learned and mixed."""
    budget, alone = plan.budgets[-1], len(plan.contenders) == 1
    pairs = plan.pairs() if alone else plan.pairs()[:1]
    chosen = {"shape": sorted({i for i, _ in pairs}), "appearance": sorted({j for _, j in pairs})}
    rows = [("References", [(plan.subjects[kind][n].reference.image, f"{kind}: {plan.subjects[kind][n].name}")
                            for kind, numbers in chosen.items() for n in numbers])]
    for contender in plan.contenders:
        cells = [((kind, n), f"{kind}: {plan.subjects[kind][n].name}") for kind, numbers in chosen.items() for n in numbers]
        cells += [(("mix", i, j), f"{plan.subjects['shape'][i].name} + {plan.subjects['appearance'][j].name}") for i, j in pairs]
        files = [(store.file(contender.name, *key, 0, budget, suffix=".png"), label) for key, label in cells]
        rows.append((contender.name, [(part, label) for file, label in files for part in _strip(file)]))
    draw_sheet(rows, path, columns=6)


def _strip(path: Path, count: int = 2) -> list[np.ndarray]:
    """The first pictures of what a cell kept side by side, cut at their height."""
    if not path.exists():
        return []
    strip = np.asarray(Image.open(path), np.float32) / 255
    return np.split(strip, max(strip.shape[1] // strip.shape[0], 1), axis=1)[:count]


def write(plan: Plan, store: Store, cells: Sequence[dict], about: Mapping[str, object]) -> str:
    """Write table.json, table.md, plot.png and sheet.png; returns the table."""
    rows = summary(cells, plan)
    save_report({**about, "rows": rows, "cells": list(cells)}, store.folder / "table.json")
    text = as_markdown(rows, about)
    save_text(text, store.folder / "table.md")
    plot(rows, store.folder / "plot.png")
    sheet(plan, store, store.folder / "sheet.png")
    return text
