"""The benchmark's cells as tables. H carries a 95 % interval from resampling references (bootstrap)."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..metrics.scores import harmonic_mean
from ..pictures import save_report, save_text
from ..unet.blocks import KINDS
from .contenders import Contender
from .figures import plot, sheet
from .plan import Experiment, Store

RESAMPLES = 2000
LEARNED, LEAKS = 0.3, 0.1      # an S or A that is more than chance, a leak that an eye notices
SCALE = ("iou_floor", "iou_ceiling", "colour_floor", "colour_ceiling", "texture_floor", "texture_ceiling")
LEARNED_FIGURES = ("own", "leak", "prompt", "steps", "megabytes")
PACE_FIGURES = ("step", "trained_parameters", "trained_state_bytes", "peak_bytes")
Rows = list[dict]


def summary(cells: Sequence[dict], plan: Experiment) -> Rows:
    """One row per contender and budget: means over subjects, pairs and seeds, intervals, and what the first
    contender leads by.

    Rows of contenders that learn nothing have budget 0; the plain model's is the last. ``leads`` has an
    interval for each budget that a row is compared at; ``twin_of`` names the contender that learned all that
    a row mixes, if it is not its own; ``shape_over`` and ``appearance_over`` are how much of a leak is not
    the plain model's, whose prompt alone brings some of a reference.
    """
    rows = [_row(cells, plan, c, budget) for c in plan.everyone() for budget in plan.budgets_of(c)]
    for row in rows:
        for kind in KINDS:
            leaks = [r.get(f"{kind}_leak") for r in (row, rows[-1])]
            if None not in leaks:
                row[f"{kind}_over"] = leaks[0] - leaks[1]
    return rows


def _row(cells: Sequence[dict], plan: Experiment, contender: Contender, budget: float) -> dict:
    """All that is said of one contender at one budget, but for the leak over the plain model's."""
    sources = {kind: plan.sources[contender.name, kind] for kind in KINDS}
    mine = {kind: _of(cells, source, kind) for kind, source in sources.items()}
    mixes = _mixes_of(cells, contender, budget)
    row = {"contender": contender.name, "question": contender.question, "budget": budget}
    for kind in KINDS:
        row |= {f"{kind}_{what}": figure for what, figure in {
            **_means(mine[kind], budget), **_pace(cells, plan.paces[contender.name, kind], kind)
        }.items()}
    row |= _mixes(mixes)
    if mixes and contender is not plan.contenders[0]:
        compared = [budget] if budget else plan.budgets
        firsts = {at: _mixes_of(cells, plan.contenders[0], at) for at in compared}
        row["leads"] = {at: interval(first, mixes) for at, first in firsts.items() if first}
    learners = set(sources.values()) - {contender.name}
    row["twin_of"] = learners.pop() if len(set(sources.values())) == 1 and learners else ""
    every = [*mine["shape"], *mine["appearance"], *_of(cells, contender.name, "mix")]
    row["failed"] = sum("failed" in x for c in every for x in (c, *c.get("rows", ())))
    return row


def _of(cells: Sequence[dict], name: str, what: str) -> list[dict]:
    """The cells of ``what`` (shape, appearance, mix) that the contender ``name`` filled."""
    return [c for c in cells if c["key"][:2] == [name, what]]


def _mixes_of(cells: Sequence[dict], contender: Contender, budget: float) -> list[dict]:
    return [c for c in _of(cells, contender.name, "mix") if c["key"][5] == budget]


def _means(cells: Sequence[dict], budget: float) -> dict[str, float]:
    """Means over what was learned of one kind, of those figures that are there."""
    at = [r for c in cells for r in c["rows"] if r["budget"] == budget]
    figures = {what: [r[what] for r in at if what in r] for what in LEARNED_FIGURES}
    return {what: float(np.mean(found)) for what, found in figures.items() if found}


def _pace(cells: Sequence[dict], name: str, kind: str) -> dict[str, float]:
    """What a step of the contender ``name`` takes, where it was measured."""
    measured = next((c for c in cells if c["key"] == [name, "rate", kind]), {})
    return {what: measured[what] for what in PACE_FIGURES if what in measured}


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


def write(plan: Experiment, store: Store, cells: Sequence[dict], about: Mapping[str, object]) -> str:
    """Write table.json, table.md, plot.png and sheet.png; returns the table."""
    rows = summary(cells, plan)
    save_report({**about, "rows": rows, "cells": list(cells)}, store.folder / "table.json")
    text = as_markdown(rows, about)
    save_text(text, store.folder / "table.md")
    plot(rows, store.folder / "plot.png")
    sheet(plan, store, store.folder / "sheet.png")
    return text
