"""What each choice in a recipe buys: ``python benchmarks/variants.py``.

Every row of VARIANTS changes one thing in the default recipe of a kind and learns held-out references with it on the pocket
model; after each of ``--at`` steps the attribute so far is drawn and judged. What is measured is kept in ``variants.json``
and not measured again; ``variants.md`` is made of it.
"""

import argparse
import datetime
import json
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from escdiff_core.bench import protocol
from escdiff_core.method.encoders import POCKET_FILTERS, choose_encoder, choose_filter
from escdiff_core.method.mix import Use
from escdiff_core.method.recipes import DEFAULTS, find_recipe
from escdiff_core.method.tune import Progress, Tuner
from escdiff_core.metrics.scores import Judge, harmonic_mean
from escdiff_core.model.load import load_model


@dataclass(frozen=True)
class Variant:
    """One question about the recipe of ``kind``; ``changes`` are its fields with other values."""

    kind: str
    name: str
    changes: Mapping[str, object] = field(default_factory=dict)
    pretrained: bool = True        # start from the shipped filter, otherwise train one along


REFERENCES = {"shape": protocol.shape_references, "appearance": protocol.appearance_references}
CHANGES: Mapping[str, Mapping[str, object]] = {
    "default": {},
    "no augmentation": {"augmentation": "none"},
    "preset paper": {"preset": "paper"},
    "preset resolution": {"preset": "resolution"},
    "weights at half the rate": {"lr_weights": 5e-4},
    "weights at twice the rate": {"lr_weights": 2e-3},
    "smaller batches, more steps": {"batch_size": 8, "steps": 200},
    "background counts fully": {"background_weight": 1.0},
    "LoRA": {"form": "lora", "lr_weights": 2e-3},
}
VARIANTS = tuple(v for kind in REFERENCES for v in (
    *(Variant(kind, name, changes) for name, changes in CHANGES.items()), Variant(kind, "filter trained along", pretrained=False)))
DRAW = {"shape": protocol.draw_shape, "appearance": protocol.draw_appearance}


def learn(model, encoder, variant: Variant, spec, judge: Judge, seed: int, at: list[float]) -> list[dict]:
    """Learn one reference and score what is learned at each share of the steps; drawing does not count as learning time."""
    recipe = find_recipe(DEFAULTS[variant.kind], **variant.changes)
    marks = {round(share * recipe.steps) for share in at}
    network = choose_filter(None, variant.kind, model, encoder) if variant.pretrained else None
    began, drawing, rows = time.monotonic(), 0.0, []
    tuner = Tuner(model, [protocol.as_reference(spec)], recipe, seed, encoder=encoder, network=network)

    def score(step: int, attribute) -> None:
        nonlocal drawing
        stopped = time.monotonic()
        s = DRAW[variant.kind](model, Use(attribute), judge, spec, seed).scores
        own = s.shape if variant.kind == "shape" else s.appearance
        rows.append({"step": step, "seconds": stopped - began - drawing, "fidelity": own, "leak": s.leak, "prompt": s.prompt})
        drawing += time.monotonic() - stopped

    def on_step(progress: Progress) -> None:
        if progress.step in marks:
            score(progress.step, progress.attribute())

    if 0 in marks:
        score(0, tuner.attribute())
    tuner.run(on_step)
    return rows


def as_markdown(report: dict) -> str:
    """One table a kind, one row a variant and step: means over references and seeds."""
    lines = ["# What each choice in a recipe buys", "", f"`{report['command']}`, {report['date']}, {report['machine']}. Means over "
             f"{report['references']} held-out references and {report['seeds']} seed(s), four pictures each; seconds are of "
             "learning. \"Together\" is the harmonic mean of fidelity, 1 - leak and prompt.", ""]
    for kind in REFERENCES:
        lines += [f"## {kind}", "", "| variant | step | seconds | fidelity | leak | prompt | together |",
                  "|---|---|---|---|---|---|---|"]
        for variant in (v for v in VARIANTS if v.kind == kind):
            cells = [c for key, c in report["cells"].items()
                     if (c["kind"], c["variant"]) == (kind, variant.name) and key.startswith(report["model"])]
            for step in sorted({row["step"] for c in cells for row in c["rows"]}):
                rows = [row for c in cells for row in c["rows"] if row["step"] == step]
                m = {k: float(np.mean([row[k] for row in rows])) for k in ("seconds", "fidelity", "leak", "prompt")}
                lines.append(f"| {variant.name} | {step} | {m['seconds']:.0f} | {m['fidelity']:.2f} | {m['leak']:.2f} "
                             f"| {m['prompt']:.2f} | {harmonic_mean(m['fidelity'], 1 - m['leak'], m['prompt']):.2f} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", type=int, default=2, metavar="N", help="of each kind")
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    parser.add_argument("--at", type=float, nargs="*", default=[0.25, 0.5, 1.0], metavar="SHARE")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="variants; default: all")
    parser.add_argument("--kind", choices=list(REFERENCES), help="default: both")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="DIR")
    options = parser.parse_args()
    path = options.out / "variants.json"
    report = json.loads(path.read_text()) if path.exists() else {"cells": {}}
    model = load_model("pocket")
    report |= {"model": f"{model.fingerprint[:8]}/{POCKET_FILTERS.stat().st_size if POCKET_FILTERS.exists() else 0}/{options.at}/",
               "command": "python " + " ".join(["benchmarks/variants.py", *sys.argv[1:]]),
               "date": datetime.date.today().isoformat(), "references": options.references, "seeds": options.seeds,
               "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {model.device}"}
    encoder = choose_encoder("auto", model)
    judges: dict[str, Judge] = {}
    for index in range(options.references):
        for seed in range(options.seeds):
            for variant in VARIANTS:
                spec = REFERENCES[variant.kind](options.references)[index]
                recipe = find_recipe(DEFAULTS[variant.kind], **variant.changes)
                key = f"{report['model']}{recipe.hash()}/{variant.pretrained}/{index}/{seed}"
                if not (variant.pretrained or POCKET_FILTERS.exists()):
                    continue                     # without a shipped filter every variant trains its own
                if key in report["cells"] or (options.only and variant.name not in options.only) \
                        or options.kind not in (None, variant.kind):
                    continue
                judge = judges.setdefault(f"{variant.kind}{index}", Judge.of_spec(spec))
                rows = learn(model, encoder, variant, spec, judge, seed, options.at)
                report["cells"][key] = {"kind": variant.kind, "variant": variant.name, "index": index, "seed": seed, "rows": rows}
                print(variant.kind, variant.name, index, json.dumps(rows[-1]), flush=True)
                path.write_text(json.dumps(report, indent=1) + "\n")
                (options.out / "variants.md").write_text(as_markdown(report))
    print(as_markdown(report))


if __name__ == "__main__":
    main()
