"""Scores of learned attributes and mixes: ``python benchmarks/method.py --seconds 60``.

Held-out shapes x held-out appearances x seeds on the pocket model. ``--set shape.lr_weights=1e-3`` tries other values of
a recipe. Writes one JSON file per run and prints a Markdown table.
"""

import argparse
import datetime
import json
import platform
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from escdiff_core.bench import protocol
from escdiff_core.cli.sheet import draw_sheet
from escdiff_core.method.encoders import choose_encoder, choose_filter
from escdiff_core.method.mix import Use
from escdiff_core.method.recipes import DEFAULTS, Recipe, find_recipe
from escdiff_core.method.tune import Tuner
from escdiff_core.metrics.scores import Judge
from escdiff_core.model.load import load_model

TYPES = {f.name: {"int": int, "float": float, "str": str, "bool": lambda v: v == "True"}.get(str(f.type)) for f in fields(Recipe)}


def parse_changes(items: list[str]) -> dict[str, dict]:
    changes = {"shape": {}, "appearance": {}}
    for item in items:
        name, value = item.split("=", 1)
        kind, field = name.split(".", 1)
        changes[kind][field] = TYPES[field](value)
    return changes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", type=int, default=3)
    parser.add_argument("--appearances", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0, help="of learning per attribute, at most")
    parser.add_argument("--recipe", nargs="*", default=[], help="recipes to use instead of the defaults")
    parser.add_argument("--set", nargs="*", default=[], metavar="KIND.FIELD=VALUE")
    parser.add_argument("--filters", choices=["pretrained", "fresh"], default="pretrained")
    parser.add_argument("--name", default="method")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    model = load_model(options.model)
    encoder = choose_encoder("auto", model)
    changes = parse_changes(options.set)
    names = {**DEFAULTS, **{find_recipe(n).kind: n for n in options.recipe}}
    recipes = {kind: find_recipe(names[kind], **changes[kind]) for kind in names}
    specs = {"shape": protocol.shape_references(options.shapes), "appearance": protocol.appearance_references(options.appearances)}
    judges = {kind: [Judge.of_spec(s) for s in group] for kind, group in specs.items()}
    draw = {"shape": protocol.draw_shape, "appearance": protocol.draw_appearance}
    uses, rows, sheet = {}, [], []
    for kind, group in specs.items():
        for i, spec in enumerate(group):
            for seed in range(options.seeds):
                network = choose_filter(None, kind, model, encoder) if options.filters == "pretrained" else None
                began = time.monotonic()
                tuner = Tuner(model, [protocol.as_reference(spec)], recipes[kind], seed, encoder=encoder, network=network)
                attribute = tuner.run(seconds=options.seconds)
                seconds = time.monotonic() - began
                uses[kind, i, seed] = Use(attribute)
                drawn = draw[kind](model, uses[kind, i, seed], judges[kind][i], spec, seed)
                s = drawn.scores
                rows.append({"what": kind, "reference": spec.shape if kind == "shape" else spec.pattern, "seed": seed,
                             "S": s.shape if kind == "shape" else s.leak, "A": s.appearance if kind == "appearance" else s.leak,
                             "P": s.prompt, "steps": attribute.steps, "seconds": seconds})
                print(json.dumps(rows[-1]), flush=True)
                if seed == 0:
                    sheet.append((f"{kind}: {rows[-1]['reference']}", [(protocol.as_reference(spec).image, "reference"),
                                                                      *zip(drawn.images, drawn.prompts, strict=True)]))
    for what, on in (("mix", True), ("plain", False)):
        for i, first in enumerate(specs["shape"]):
            for j, second in enumerate(specs["appearance"]):
                for seed in range(options.seeds if on else 1):
                    pair = (uses["shape", i, seed], uses["appearance", j, seed]) if on else (None, None)
                    drawn = protocol.draw_mix(model, *pair, judges["shape"][i], judges["appearance"][j], second, seed)
                    s = drawn.scores
                    rows.append({"what": what, "reference": f"{first.shape} + {second.pattern}", "seed": seed, "S": s.shape,
                                 "A": s.appearance, "P": s.prompt, "H": s.harmonic})
                    if on and seed == 0:
                        sheet.append((f"mix: {first.shape} + {second.pattern}", [
                            (protocol.as_reference(first).image, "shape"), (protocol.as_reference(second).image, "appearance"),
                            *zip(drawn.images, drawn.prompts, strict=True)]))
    means = {}
    for what in ("shape", "appearance", "mix", "plain"):
        part = [r for r in rows if r["what"] == what]
        means[what] = {k: float(np.mean([r[k] for r in part])) for k in ("S", "A", "P")}
        means[what]["H"] = 3 / sum(1 / max(means[what][k], 1e-9) for k in ("S", "A", "P"))
    report = {"command": "python " + " ".join(["benchmarks/method.py", *sys.argv[1:]]), "date": datetime.date.today().isoformat(),
              "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {model.device}",
              "means": means, "rows": rows,
              "scales": {k: [vars(j.scale) for j in group] for k, group in judges.items()},
              "recipes": {k: vars(r) for k, r in recipes.items()}}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.name}.json").write_text(json.dumps(report, indent=1) + "\n")
    draw_sheet(sheet, options.out / f"{options.name}.png", columns=6)
    (options.out / f"{options.name}.md").write_text(as_markdown(report))
    print(as_markdown(report))


AIMS = {"shape": "S 0.75, A (leak) at most 0.15", "appearance": "A 0.70, S (leak) at most 0.15", "mix": "H 0.75, P 0.90",
        "plain": "the floor: the prompt with plain words"}


def as_markdown(report: dict) -> str:
    """The report as a page: means with their aims, every run, floors and ceilings."""
    lines = ["# What one reference teaches: scores of METHODS on held-out shapes and patterns", "",
             f"`{report['command']}`, {report['date']}, {report['machine']}.", "",
             "| what | S | A | P | H of the means | aim |", "|---|---|---|---|---|---|"]
    for what, m in report["means"].items():
        h = f"{m['H']:.2f}" if what in ("mix", "plain") else ""
        lines.append(f"| {what} | {m['S']:.2f} | {m['A']:.2f} | {m['P']:.2f} | {h} | {AIMS[what]} |")
    lines += ["", "| run | seed | S | A | P | steps | seconds |", "|---|---|---|---|---|---|---|"]
    for r in report["rows"]:
        learned = f"{r['steps']} | {r['seconds']:.0f}" if "steps" in r else " | "
        scores = " | ".join(f"{r[k]:.2f}" for k in ("S", "A", "P"))
        lines.append(f"| {r['what']}: {r['reference']} | {r['seed']} | {scores} | {learned} |")
    lines += ["", "Floors (other shapes, other appearances) and ceilings (the reference drawn again) behind S and A:", ""]
    for kind, scales in report["scales"].items():
        told = ["; ".join(f"{k} {v:.3f}" for k, v in scale.items() if isinstance(v, float)) for scale in scales]
        lines += [f"- {kind} {i + 1}: {text}" for i, text in enumerate(told)]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
