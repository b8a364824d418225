"""Does a pool of draws with cached encoder features cost quality? ``python benchmarks/cached.py``

The decoder-only recipe learns held-out appearances twice, in as many steps from the same seed: once with
fresh draws, once from the pool whose encoder features were computed before the first step. The loss
afterwards is over the same fresh draws for both, which neither has seen: with four pictures a cell it tells
more than their scores.
"""

import argparse
import datetime
import platform
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, replace
from itertools import product, repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from escdiff_core.bench import protocol
from escdiff_core.families.load import load_model
from escdiff_core.learning.encoders import choose_encoder, choose_filter
from escdiff_core.learning.learn import prepare
from escdiff_core.learning.recipes import find_recipe
from escdiff_core.learning.tune import Tuner
from escdiff_core.mixing.plan import Use
from escdiff_core.pictures import save_text

RECIPE = "escdiff-appearance-paper"
CHECKS = 32            # batches of fresh draws


def loss_afterwards(tuner: Tuner) -> float:
    """The mean loss of what was learned over ``CHECKS`` batches of draws that no step took."""
    tuner.recipe, tuner.pool, losses = replace(tuner.recipe, cached=False), None, []
    with torch.no_grad(), tuner.optimizer.averaged():
        for number in range(CHECKS):
            tuner.done = 1_000_000 + number           # a step's draws come from its number
            losses.append(float(tuner.loss()))
    return float(np.mean(losses))


@dataclass(frozen=True)
class Figures:
    """What one attribute was worth."""

    a: float
    leak: float
    p: float
    loss: float

    def cells(self) -> list[str]:
        return [f"{self.a:.2f}", f"{self.leak:.2f}", f"{self.p:.2f}", f"{self.loss:.4f}"]

    @classmethod
    def mean(cls, many: "Sequence[Figures]") -> "Figures":
        return cls(*np.mean([astuple(x) for x in many], axis=0))


def compare(number: int, seed: int, steps: int) -> list[Figures]:
    """What fresh and cached draws make of one reference."""
    model = load_model("pocket")
    encoder, figures = choose_encoder("auto", model), []
    subject = protocol.Subject.of_spec("appearance", protocol.appearance_references(number + 1)[number])
    for cached in (False, True):
        recipe = find_recipe(RECIPE, steps=steps, cached=cached)
        tuner = prepare(model, [subject.reference], recipe, seed, subject.describe, subject.class_word,
                        encoder, choose_filter(None, recipe, model, encoder))
        scores = protocol.draw_appearance(model, Use(tuner.run()), subject, seed).scores
        figures.append(Figures(scores.appearance, scores.leak, scores.prompt, loss_afterwards(tuner)))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--appearances", type=int, default=2, metavar="N")
    parser.add_argument("--seeds", type=int, default=6, metavar="N")
    parser.add_argument("--steps", type=int, default=110, metavar="N")
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N", help="processes side by side, a thread each"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="DIR")
    options = parser.parse_args()
    numbers = list(product(range(options.appearances), range(options.seeds)))
    with ProcessPoolExecutor(options.workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        compared, pairs = pool.map(compare, *zip(*numbers, strict=True), repeat(options.steps)), []
        for (number, seed), pair in zip(numbers, compared, strict=True):
            print(number, seed, *pair, flush=True)
            pairs.append(pair)
    names = [
        f"{spec.pattern} on a {spec.shape}" for spec in protocol.appearance_references(options.appearances)
    ]
    lines = [f"| {names[number]}, seed {seed} | {' | '.join(pair[0].cells() + pair[1].cells())} |"
             for (number, seed), pair in zip(numbers, pairs, strict=True)]
    every = [x for side in zip(*pairs, strict=True) for x in Figures.mean(side).cells()]
    # A seed's draws are the same for all references: seeds are what is independent
    more = np.log([cached.loss / fresh.loss
                   for fresh, cached in pairs]).reshape(options.appearances, options.seeds).mean(0)
    ratio = f"Loss with the pool over loss with fresh draws: {np.exp(more.mean()):.3f}"
    if len(more) > 1:
        low, high = np.exp(stats.t.interval(0.95, len(more) - 1, more.mean(), stats.sem(more)))
        ratio += f" ({low:.3f} to {high:.3f}, 95 %, Student's t over {len(more)} seeds)"
    save_text(
        "\n".join([
            "# Do cached encoder features cost quality?", "",
            f"`python {' '.join(['benchmarks/cached.py', *sys.argv[1:]])}`, "
            f"{datetime.date.today().isoformat()}, "
            f"{platform.processor() or platform.machine()}.", "",
            f"`{RECIPE}`, {options.steps} steps, {protocol.PICTURES} pictures a cell; what caching saves "
            "in time: [tuning_speed.md](tuning_speed.md).", "",
            "| reference | fresh draws: A | leak | P | loss afterwards | cached pool: A | leak | P | loss "
            "afterwards |", "|---|---|---|---|---|---|---|---|---|", *lines, f"| all | {' | '.join(every)} |",
            "", f"{ratio}.", ""
        ]), options.out / "cached.md")
    print((options.out / "cached.md").read_text())


if __name__ == "__main__":
    main()
