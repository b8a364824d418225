"""Does a pool of draws with cached encoder features cost quality? ``python benchmarks/cached.py``

The decoder-only recipe learns held-out appearances twice, in as many steps from the same seed: once with fresh draws, once from the
pool whose encoder features were computed before the first step. The loss afterwards is over the same fresh draws for both, which
neither has seen: with four pictures a cell it tells more than their scores.
"""

import argparse
import datetime
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from escdiff_core.bench import protocol
from escdiff_core.method.encoders import choose_encoder, choose_filter
from escdiff_core.method.mix import Use
from escdiff_core.method.recipes import find_recipe
from escdiff_core.method.tune import Tuner
from escdiff_core.model.load import load_model
from escdiff_core.pictures import save_text

RECIPE = "escdiff-appearance-paper"
CHECKS = 32            # batches of fresh draws


def loss_afterwards(tuner: Tuner) -> float:
    """The mean loss of what was learned over ``CHECKS`` batches of draws that no step took."""
    tuner.recipe, tuner.pool, losses = replace(tuner.recipe, cached=False), None, []
    with torch.no_grad(), tuner.averaged():
        for number in range(CHECKS):
            tuner.done = 1_000_000 + number           # a step's draws come from its number
            losses.append(float(tuner.loss()))
    return float(np.mean(losses))


def form(figures: Sequence[float]) -> list[str]:
    """A, leak, P and loss as text."""
    return [f"{x:.2f}" for x in figures[:3]] + [f"{figures[3]:.4f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--appearances", type=int, default=4, metavar="N")
    parser.add_argument("--steps", type=int, default=110, metavar="N")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="DIR")
    options = parser.parse_args()
    model = load_model("pocket")
    encoder = choose_encoder("auto", model)
    lines, means = [], {False: [], True: []}
    for spec in protocol.appearance_references(options.appearances):
        subject, cells = protocol.Subject.of_spec("appearance", spec), []
        for cached in (False, True):
            recipe = find_recipe(RECIPE, steps=options.steps, cached=cached)
            began = time.perf_counter()
            tuner = Tuner(model, [subject.reference], recipe, 0, subject.describe, subject.class_word, encoder,
                          choose_filter(None, recipe, model, encoder))
            scores = protocol.draw_appearance(model, Use(tuner.run()), subject).scores
            means[cached].append((scores.appearance, scores.leak, scores.prompt, loss_afterwards(tuner)))
            cells += form(means[cached][-1])
            print(spec.pattern, "cached" if cached else "fresh", *cells[-4:], f"{time.perf_counter() - began:.0f} s", flush=True)
        lines.append(f"| {spec.pattern} on a {spec.shape} | {' | '.join(cells)} |")
    every = [x for cached in (False, True) for x in form(np.mean(means[cached], axis=0))]
    save_text("\n".join([
        "# Do cached encoder features cost quality?", "",
        f"`python {' '.join(['benchmarks/cached.py', *sys.argv[1:]])}`, {datetime.date.today().isoformat()}, "
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads.", "",
        f"`{RECIPE}`, {options.steps} steps, {protocol.PICTURES} pictures a cell; what caching saves in time: "
        "[tuning_speed.md](tuning_speed.md).", "",
        "| reference | fresh draws: A | leak | P | loss afterwards | cached pool: A | leak | P | loss afterwards |",
        "|---|---|---|---|---|---|---|---|---|", *lines,
        f"| all | {' | '.join(every)} |", ""]), options.out / "cached.md")
    print((options.out / "cached.md").read_text())


if __name__ == "__main__":
    main()
