"""The benchmark's cells as tables, plots and a sheet. H carries a 95 % interval from resampling references
(bootstrap)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..metrics.scores import harmonic_mean
from ..pictures import draw_sheet, save_report, save_text
from .contenders import PLAIN
from .plan import Experiment, Store
from .protocol import PICTURES

RESAMPLES = 2000
LEARNED, LEAKS = 0.3, 0.1      # an S or A that is more than chance, a leak that an eye notices
SCALE = ("iou_floor", "iou_ceiling", "colour_floor", "colour_ceiling", "texture_floor", "texture_ceiling")
Rows = list[dict]


def summary(cells: Sequence[dict], plan: Experiment) -> Rows:
    """One row per contender and budget: means over subjects, pairs and seeds, intervals, and what the first
    contender leads by.

    Rows of contenders that learn nothing have budget 0; the plain model's is the last. ``leads`` has an
    interval for each budget that a row is compared at; ``twin_of`` names the contender that learned all that
    a row mixes, if it is not its own.
    """
    rows = []
    first = {
        b: [c for c in cells if c["key"][:2] == [plan.contenders[0].name, "mix"] and c["key"][5] == b]
        for b in plan.budgets
    }
    for contender in plan.everyone():
        sources = {"mix": contender.name} | {
            kind: plan.sources[contender.name, kind] for kind in ("shape", "appearance")
        }
        mine = [c for c in cells if c["key"][0] == sources.get(c["key"][1])]
        for budget in plan.budgets_of(contender):
            row = {"contender": contender.name, "question": contender.question, "budget": budget}
            for kind in ("shape", "appearance"):
                at = [r for c in mine if c["key"][1] == kind for r in c["rows"] if r["budget"] == budget]
                row |= {f"{kind}_{k}": float(np.mean([r[k] for r in at if k in r]))
                        for k in ("own", "leak", "prompt", "steps", "megabytes") if any(k in r for r in at)}
                rate = next(
                    (c for c in cells if c["key"] == [plan.paces[contender.name, kind], "rate", kind]), {}
                )
                row |= {
                    f"{kind}_{k}": rate[k]
                    for k in ("step", "trained_parameters", "trained_state_bytes", "peak_bytes")
                    if k in rate
                }
            mixes = [c for c in mine if c["key"][1] == "mix" and c["key"][5] == budget]
            row |= _mixes(mixes)
            if mixes and contender is not plan.contenders[0]:
                row["leads"] = {
                    b: interval(first[b], mixes) for b in ([budget] if budget else plan.budgets) if first[b]
                }
            learners = {plan.sources[contender.name, kind] for kind in ("shape", "appearance")}
            row["twin_of"] = learners.pop() if len(learners) == 1 and contender.name not in learners else ""
            row["failed"] = sum("failed" in x for c in mine for x in (c, *c.get("rows", ())))
            rows.append(row)
    # what the prompt alone brings of a reference is no leak: the last row is the plain model
    for row in rows:
        row |= {
            f"{kind}_over": row[f"{kind}_leak"] - rows[-1][f"{kind}_leak"]
            for kind in ("shape", "appearance")
            if f"{kind}_leak" in row and f"{kind}_leak" in rows[-1]
        }
    return rows


def _mixes(cells: Sequence[dict]) -> dict:
    """S, A, P and H of the mean over mixes, and H's interval."""
    if not cells:
        return {}
    scores = _scores(cells).mean(0).tolist()
    return {
        **dict(zip("SAP", scores, strict=True)),
        "H": harmonic_mean(*scores),
        "H_interval": interval(cells),
        "mixes": len(cells),
    }


def _scores(cells: Sequence[dict]) -> np.ndarray:
    return np.array([[c["shape"], c["appearance"], c["prompt"]] for c in cells])        # (n, 3)


def interval(cells: Sequence[dict], less: Sequence[dict] = (), seed: int = 0) -> tuple[float, float] | None:
    """The 95 % interval of H of the mean scores of mixes, or of how much it is above that of the mixes
    ``less``.

    Percentile bootstrap that draws shapes and appearances anew, each for itself (Owen 2007, the pigeonhole
    bootstrap): mixes that share a reference are no independent samples. Mixes of the same references come and
    go together on both sides. None for a single reference of a kind, which says nothing of others.
    """
    rng, values = np.random.default_rng(seed), []
    counts = [max(c["key"][part] for c in (*cells, *less)) + 1 for part in (2, 3)]
    if min(counts) < 2:
        return None
    sides = [
        (_scores(group), *(np.array([c["key"][part] for c in group]) for part in (2, 3)))
        for group in (cells, less)
        if group
    ]
    for _ in range(RESAMPLES):
        times = [rng.multinomial(n, [1 / n] * n) for n in counts]
        weights = [times[0][shapes] * times[1][appearances] for _, shapes, appearances in sides]
        if min(w.sum() for w in weights):               # of a choice of pairs, all may be gone
            values.append(
                [
                    harmonic_mean(*np.average(side[0], 0, w).tolist())
                    for side, w in zip(sides, weights, strict=True)
                ]
            )
    values = np.array(values)
    low, high = np.percentile(values[:, 0] - values[:, 1] if less else values[:, 0], (2.5, 97.5))
    return float(low), float(high)


def as_markdown(rows: Rows, about: Mapping[str, object]) -> str:
    """The table as a page: a section per budget, the best mix first."""
    lines = [
        f"# {about['title']}", "", f"`{about['command']}`, {about['date']}, {about['machine']}.", "",
        *about["notes"], ""
    ]
    for budget in list(dict.fromkeys(r["budget"] for r in rows if r["budget"])) or [0.0]:
        asks = any(r["question"] for r in rows if r["budget"] == budget)
        lines += [
            f"## {budget:g} s of learning for each attribute",
            "",
            "| contender | shape: S | leak | over plain | P | appearance: A | leak | over plain | P | "
            "mix: S | A | P | H | 95 % | the first leads by | steps | MB "
            f"|{' question |' if asks else ''}",
            "|---|" + "---|" * (16 + asks),
        ]
        of_budget = [r for r in rows if r["budget"] in (budget, 0)]
        for r in sorted(of_budget, key=lambda r: -r.get("H", 0)):
            cells = [
                _figure(r.get(f"{kind}_{k}"))
                for kind in ("shape", "appearance")
                for k in ("own", "leak", "over", "prompt")
            ]
            cells += [_figure(r.get(k)) for k in ("S", "A", "P", "H")]
            cells += [_range(r.get("H_interval")), _range(r.get("leads", {}).get(budget))]
            for what, form in (("steps", "{:.0f}"), ("megabytes", "{:.1f}")):
                cells.append(" + ".join(
                    form.format(r[f"{k}_{what}"]) for k in ("shape", "appearance") if f"{k}_{what}" in r))
            lines.append(
                f"| {r['contender']} | " + " | ".join(cells + ([r["question"]] if asks else [])) + " |"
            )
        lines.append("")
    lines += curves(rows)
    failed = {r["contender"]: r["failed"] for r in rows if r.get("failed")}
    lines += [
        f"{name}: {count} figures are 0 because it could not be learned or drawn (see `failed` in "
        "table.json)."
        for name, count in failed.items()
    ]
    lines += [
        "## What 0 and 1 mean for each reference",
        "",
        "| reference | IoU at S = 0 | at S = 1 | colour distance at A = 0 | at A = 1 | texture "
        "distance at A = 0 | at A = 1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, scales in about["scales"].items():
        lines += [
            f"| {kind}: {name} | " + " | ".join(f"{s[k]:.3g}" for k in SCALE) + " |"
            for name, s in scales.items()
        ]
    return "\n".join([*lines, ""])


def curves(rows: Rows) -> list[str]:
    """At which step of learning an attribute is there, and from which it leaks, as a section of the page;
    empty for few budgets."""
    lines = []
    for name in dict.fromkeys(r["contender"] for r in rows):
        for kind, letter in (("shape", "S"), ("appearance", "A")):
            # none failed
            mine = [r for r in rows if r["contender"] == name and f"{kind}_steps" in r and f"{kind}_over" in r
                    and not r["twin_of"]]
            if len(mine) < 3:
                continue
            steps, own, leak = ([r[f"{kind}_{what}"] for r in mine] for what in ("steps", "own", "over"))
            there = [n for n, x in zip(steps, own, strict=True)
                     if x >= 0.9 * max(own)] if max(own) >= LEARNED else []
            leaks = [n for n, x in zip(steps, leak, strict=True) if x > LEAKS]
            cells = [
                ", ".join(form.format(x)
                          for x in figures)
                for form, figures in (("{:.0f}", steps), ("{:.2f}", own), ("{:.2f}", leak),
                                      ("{:.0f}", there[:1]), ("{:.0f}", leaks[:1]))
            ]
            lines.append(f"| {name} | {letter} | " + " | ".join(cells) + " |")
    about = (
        f"Nine tenths of the best S or A of a row, if that is {LEARNED} or more; a leak above {LEAKS} "
        "over the plain one."
    )
    head = ("contender", "of", "after steps", "S or A", "leak over plain", "nine tenths at step",
            "leaks from step")
    rule = "|---" * len(head) + "|"
    return lines and [
        "## When it is learned, and when it leaks", "", about, "", f"| {' | '.join(head)} |", rule, *lines, ""
    ]


def _range(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def plot(rows: Rows, path: Path) -> None:
    """H, fidelity and leak over seconds of learning and over steps, a line per contender."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {
        "mix: H": "H", "shape: S": "shape_own", "shape: leak": "shape_leak",
        "appearance: A": "appearance_own", "appearance: leak": "appearance_leak"
    }
    figure, both = pyplot.subplots(2, len(panels), figsize=(4.2 * len(panels), 8), sharex="row")
    names = list(dict.fromkeys(r["contender"] for r in rows if r["contender"] != PLAIN.name))
    for over, axes in zip(("seconds", "steps"), both, strict=True):
        for (title, key), axis in zip(panels.items(), axes, strict=True):
            # of a mix: the shape's
            steps = f"{'appearance' if key.startswith('appearance') else 'shape'}_steps"
            for number, name in enumerate(names):
                twin = next(r["twin_of"] for r in rows if r["contender"] == name)
                own = [r for r in rows if r["contender"] == name and key in r and (key == "H" or not twin)]
                style = {
                    "label": name,
                    "color": pyplot.get_cmap("tab20")((names.index(twin) if twin else number) % 20),
                    "linestyle": "--" if twin else "-",
                    "linewidth": 1.2 if number else 2.5,
                    "zorder": 2 if number else 3,
                }
                x = "budget" if over == "seconds" else steps
                # learns nothing: a level line
                if own and not any(r.get(x) for r in own):
                    axis.axhline(own[0][key], **{**style, "linestyle": ":"})
                else:
                    axis.plot(*zip(*((r[x], r[key]) for r in own if x in r), strict=True),
                              marker="os"[number // 20 % 2], **style)
            axis.set(title=title, xlabel=f"{over} of learning", ylim=(0, 1))
            axis.grid(alpha=0.3)
    handles, labels = both[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=7, fontsize=8)
    figure.tight_layout(rect=(0, 0.02 + 0.02 * -(-len(labels) // 7), 1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def sheet(plan: Experiment, store: Store, path: Path) -> None:
    """At the largest budget: all contenders side by side on the first references, or all that a single one
    learned and mixed.

    Where there is none, because it failed or an earlier run measured it and left no picture in the folder, it
    is grey.
    """
    alone = len(plan.contenders) == 1
    pairs = plan.pairs() if alone else plan.pairs()[:1]
    chosen = {"shape": sorted({i for i, _ in pairs}), "appearance": sorted({j for _, j in pairs})}
    rows = [("References", [(plan.subjects[kind][n].reference.image, f"{kind}: {plan.subjects[kind][n].name}")
                            for kind, numbers in chosen.items() for n in numbers])]
    gone = np.full_like(rows[0][1][0][0], 0.8)
    for contender in plan.contenders:
        cells = [
            ((kind, n), f"{kind}: {plan.subjects[kind][n].name}")
            for kind, numbers in chosen.items()
            for n in numbers
        ]
        cells += [
            (("mix", i, j), f"{plan.subjects['shape'][i].name} + {plan.subjects['appearance'][j].name}")
            for i, j in pairs
            if contender.mixes()
        ]
        at = plan.budgets_of(contender)[-1]
        names = [
            contender.name if key[0] == "mix" else plan.sources[contender.name, key[0]] for key, _ in cells
        ]
        files = [
            (store.file(name, *key, 0, at, suffix=".png"), label)
            for name, (key, label) in zip(names, cells, strict=True)
        ]
        rows.append((contender.name, [
            item for file, label in files
            for item in ([(part, label) for part in _strip(file)] or [(gone, f"{label}: no picture")])
        ]))
    draw_sheet(rows, path, columns=6)


def _strip(path: Path, count: int = 2) -> list[np.ndarray]:
    """The first of the pictures that a cell kept side by side."""
    if not path.exists():
        return []
    return np.array_split(np.asarray(Image.open(path), np.float32) / 255, PICTURES, axis=1)[:count]


def write(plan: Experiment, store: Store, cells: Sequence[dict], about: Mapping[str, object]) -> str:
    """Write table.json, table.md, plot.png and sheet.png; returns the table."""
    rows = summary(cells, plan)
    save_report({**about, "rows": rows, "cells": list(cells)}, store.folder / "table.json")
    text = as_markdown(rows, about)
    save_text(text, store.folder / "table.md")
    plot(rows, store.folder / "plot.png")
    sheet(plan, store, store.folder / "sheet.png")
    return text
