"""The benchmark's cells as tables, plots and a sheet. H carries a 95 % interval from resampling references (bootstrap)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..metrics.scores import harmonic_mean
from ..pictures import draw_sheet, save_report, save_text
from .contenders import PLAIN
from .plan import Plan, Store

RESAMPLES = 2000
SCALE = ("iou_floor", "iou_ceiling", "colour_floor", "colour_ceiling", "texture_floor", "texture_ceiling")
Rows = list[dict]


def summary(cells: Sequence[dict], plan: Plan) -> Rows:
    """One row per contender and budget: means over subjects, pairs and seeds, intervals, and what the first contender leads by.

    Rows of contenders that learn nothing have budget 0; the plain model's is the last.
    """
    rows, first = [], {}
    for contender in plan.everyone():
        mine = [c for c in cells if c["key"][0] == contender.name]
        for budget in plan.budgets_of(contender):
            row = {"contender": contender.name, "question": contender.question, "budget": budget}
            for kind in ("shape", "appearance"):
                at = [r for c in mine if c["key"][1] == kind for r in c["rows"] if r["budget"] == budget]
                row |= {f"{kind}_{k}": float(np.mean([r[k] for r in at])) for k in ("own", "leak", "prompt", "steps", "megabytes")
                        if at and k in at[0]}
                rate = next((c for c in cells if c["key"] == [contender.pace, "rate", kind]), {})
                row |= {f"{kind}_{k}": rate[k] for k in ("step", "trained_parameters", "trained_state_bytes", "peak_bytes")
                        if k in rate}
            mixes = [c for c in mine if c["key"][1] == "mix" and c["key"][5] == budget]
            row |= _mixes(mixes)
            if mixes and contender in plan.contenders:
                first.setdefault(budget, mixes)
                if mixes is not first[budget]:
                    row["lead_low"], row["lead_high"] = interval(first[budget], mixes)
            rows.append(row)
    for row in rows:           # what the prompt alone brings of a reference is no leak: the last row is the plain model
        row |= {f"{kind}_over": row[f"{kind}_leak"] - rows[-1][f"{kind}_leak"] for kind in ("shape", "appearance")
                if f"{kind}_leak" in row and f"{kind}_leak" in rows[-1]}
    return rows


def _mixes(cells: Sequence[dict]) -> dict:
    """S, A, P and H of the mean over mixes, and H's interval."""
    if not cells:
        return {}
    scores = _scores(cells).mean(0).tolist()
    low, high = interval(cells)
    return {**dict(zip("SAP", scores, strict=True)), "H": harmonic_mean(*scores), "H_low": low, "H_high": high, "mixes": len(cells)}


def _scores(cells: Sequence[dict]) -> np.ndarray:
    return np.array([[c["shape"], c["appearance"], c["prompt"]] for c in cells])        # (n, 3)


def interval(cells: Sequence[dict], less: Sequence[dict] = (), seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of H of the mean scores of mixes, or of how much it is above that of the mixes ``less``.

    Percentile bootstrap that draws shapes and appearances anew, each for itself (Owen 2007, the pigeonhole bootstrap): mixes
    that share a reference are no independent samples. Mixes of the same references come and go together on both sides.
    """
    rng, values = np.random.default_rng(seed), []
    counts = [max(c["key"][part] for c in (*cells, *less)) + 1 for part in (2, 3)]
    sides = [(_scores(group), *(np.array([c["key"][part] for c in group]) for part in (2, 3))) for group in (cells, less) if group]
    for _ in range(RESAMPLES):
        times = [rng.multinomial(n, [1 / n] * n) for n in counts]
        weights = [times[0][shapes] * times[1][appearances] for _, shapes, appearances in sides]
        if min(w.sum() for w in weights):               # of a choice of pairs, all may be gone
            values.append([harmonic_mean(*np.average(side[0], 0, w).tolist()) for side, w in zip(sides, weights, strict=True)])
    values = np.array(values)
    low, high = np.percentile(values[:, 0] - values[:, 1] if less else values[:, 0], (2.5, 97.5))
    return float(low), float(high)


def as_markdown(rows: Rows, about: Mapping[str, object]) -> str:
    """The table as a page: a section per budget, the best mix first."""
    lines = [f"# {about['title']}", "", f"`{about['command']}`, {about['date']}, {about['machine']}.", "", *about["notes"], ""]
    for budget in dict.fromkeys(r["budget"] for r in rows if r["budget"]):
        asks = any(r["question"] for r in rows if r["budget"] == budget)
        lines += [f"## {budget:g} s of learning for each attribute", "",
                  "| contender | shape: S | leak | over plain | P | appearance: A | leak | over plain | P | mix: S | A | P | H "
                  f"| 95 % | the first leads by | steps | MB |{' question |' if asks else ''}", "|---|" + "---|" * (16 + asks)]
        of_budget = [r for r in rows if r["budget"] in (budget, 0)]
        for r in sorted(of_budget, key=lambda r: -r.get("H", 0)):
            cells = [_figure(r.get(f"{kind}_{k}")) for kind in ("shape", "appearance") for k in ("own", "leak", "over", "prompt")]
            cells += [_figure(r.get(k)) for k in ("S", "A", "P", "H")]
            cells += [f"{r[f'{k}_low']:.2f} to {r[f'{k}_high']:.2f}" if f"{k}_low" in r else "" for k in ("H", "lead")]
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
    budgets = sorted({r["budget"] for r in rows if r["budget"]})
    for (title, key), axis in zip(panels.items(), axes, strict=True):
        for number, name in enumerate(dict.fromkeys(r["contender"] for r in rows if r["contender"] != PLAIN.name)):
            own = [r for r in rows if r["contender"] == name and key in r]
            still = len(own) == 1 and not own[0]["budget"]                         # learns nothing: a level line
            axis.plot(budgets if still else [r["budget"] for r in own], [r[key] for r in own] * (len(budgets) if still else 1),
                      label=name, marker="" if still else "o", linestyle=":" if still else "-",
                      color=pyplot.get_cmap("tab20")(number % 20), linewidth=2.5 if number == 0 else 1.2)
        axis.set(title=title, xlabel="seconds of learning", ylim=(0, 1))
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncol=7, fontsize=8)
    figure.tight_layout(rect=(0, 0.16, 1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def sheet(plan: Plan, store: Store, path: Path) -> None:
    """At the largest budget: all contenders side by side on the first references, or all that a single one learned and mixed."""
    alone = len(plan.contenders) == 1
    pairs = plan.pairs() if alone else plan.pairs()[:1]
    chosen = {"shape": sorted({i for i, _ in pairs}), "appearance": sorted({j for _, j in pairs})}
    rows = [("References", [(plan.subjects[kind][n].reference.image, f"{kind}: {plan.subjects[kind][n].name}")
                            for kind, numbers in chosen.items() for n in numbers])]
    for contender in plan.contenders:
        cells = [((kind, n), f"{kind}: {plan.subjects[kind][n].name}") for kind, numbers in chosen.items() for n in numbers]
        cells += [(("mix", i, j), f"{plan.subjects['shape'][i].name} + {plan.subjects['appearance'][j].name}") for i, j in pairs]
        at = plan.budgets_of(contender)[-1]
        files = [(store.file(contender.name, *key, 0, at, suffix=".png"), label) for key, label in cells]
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
