"""Learning and mixing at full size on a GPU, and on smaller ones by a share of its memory:
``python benchmarks/gpu.py`` (at most 240 s; what was not reached is said).

SD 1.5 at 512 and SDXL at 1024 pixels with random weights in bf16, the families' own recipes, ``--steps`` of
each. ``--rehearse`` runs the same on a CPU with narrow models and small pictures, to see that it works.
Writes ``gpu.md``.
"""

import argparse
import datetime
import gc
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from full_size import model_bytes, peak, random_model, reference

from escdiff_core.errors import ESCDiffError, memory_as_a_sentence
from escdiff_core.families import FAMILIES
from escdiff_core.learning.fit import Fit
from escdiff_core.learning.learn import learn, prepare
from escdiff_core.learning.recipes import Recipe, find_recipe
from escdiff_core.mixing.mix import Mix
from escdiff_core.mixing.plan import Use
from escdiff_core.model.diffusion import DiffusionModel, resolve_device
from escdiff_core.reference import Reference

LIMIT = 240                 # seconds
SIZES = {"sd15": 512, "sdxl": 1024}
CARDS = (None, 24, 12, 8)   # GiB; None: the whole card
# dense bf16 products of a card in 1e12 operations a second, by its maker's data sheets
PRODUCTS = {"H100": 989, "H200": 989}
HEAD = ("family", "pixels", "card", "recipe", "rows at once", "checkpointing", "prepare s", "s a step",
        "of bf16 peak", "peak GiB", "expected GiB", "file MB")


@dataclass
class Bench:
    """What is measured with, and the table's rows so far."""

    device: torch.device
    steps: int
    rehearse: bool
    out: Path
    began: float = field(default_factory=time.monotonic)
    rows: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def write(self) -> None:
        """The table so far."""
        card = "CPU, a rehearsal in small" if self.rehearse else torch.cuda.get_device_name(self.device)
        self.out.write_text("\n".join([
            "# Learning and mixing at full size", "",
            f"`python benchmarks/gpu.py{' --rehearse' * self.rehearse}`, "
            f"{datetime.date.today().isoformat()}, {card}, torch {torch.__version__}, {self.steps} steps of "
            f"each, {time.monotonic() - self.began:.0f} s in all. The peak is of learning, the model in it.",
            "", f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|", *self.rows, "", *self.notes, ""
        ]), encoding="utf-8")

    def late(self, what: str) -> bool:
        """Is the time up? Then ``what`` is said not to have been reached."""
        if time.monotonic() - self.began < LIMIT:
            return False
        self.notes.append(f"Not reached within {LIMIT} s: {what}.")
        return True

    def wait(self) -> float:
        """The time, when the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic()

    def products(self) -> float | None:
        """bf16 products of the card in 1e12 operations a second, if they are known."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else ""
        return next((most for card, most in PRODUCTS.items() if card in name), None)

    def give(self, card: float | None) -> None:
        """Let the device have no more than ``card`` GiB."""
        if self.device.type == "cuda":
            whole = torch.cuda.get_device_properties(self.device).total_memory / 2**30
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(min(1.0, (card or whole) / whole), self.device)
            torch.cuda.reset_peak_memory_stats(self.device)


def work_of(model: DiffusionModel, recipe: Recipe, given: Reference) -> float:
    """Floating-point operations of one step: one row there and back, times the batch."""
    tuner = prepare(model, [given], replace(recipe, views=1))
    tuner.settle(Fit(1))
    with FlopCounterMode(display=False) as counter:
        next(tuner.parts()).backward()
    return counter.get_total_flops() * recipe.batch_size


def learned(bench: Bench, model: DiffusionModel, size: int, card: float | None) -> dict[str, Use]:
    """Learn both kinds within ``card`` GiB, a row of the table for each; returns what was learned."""
    uses, smaller = {}, {"views": 2, "batch_size": 2} if bench.rehearse else {}
    for kind, name in FAMILIES[model.family].recipes.items():
        where = f"{model.family}, {card or 'whole'} card, {kind}"
        if not bench.late(where):
            try:
                recipe = find_recipe(name, steps=bench.steps, **smaller)
                with memory_as_a_sentence():
                    uses[kind] = one(bench, model, size, card, recipe)
            except ESCDiffError as error:
                bench.notes.append(f"{where}: {error}")
            bench.write()
    return uses


def one(bench: Bench, model: DiffusionModel, size: int, card: float | None, recipe: Recipe) -> Use:
    """Learn by ``recipe``; adds its row."""
    bench.give(card)
    given, began, ready = reference(size), bench.wait(), []
    made, report = learn(model, [given], recipe, on_begin=lambda tuner: ready.append(bench.wait()))
    rate = report.seconds / recipe.steps
    most = None if card else bench.products()
    share = f"{work_of(model, recipe, given) / rate / most / 1e12:.0%}" if most else ""
    cells = (model.family, size, f"{card} GiB" if card else "whole", recipe.name,
             f"{report.rows} of {recipe.batch_size}", "yes" if report.checkpointing else "no",
             f"{ready[0] - began:.1f}", f"{rate:.3f}", share, f"{peak(bench.device):.1f}",
             f"{(model_bytes(model) + report.needed_bytes) / 2**30:.1f}",
             f"{made.describe()['megabytes']:.0f}")
    bench.rows.append(f"| {' | '.join(map(str, cells))} |")
    print(bench.rows[-1], flush=True)
    return Use(made)


def mixed(bench: Bench, model: DiffusionModel, uses: dict[str, Use]) -> None:
    """Drawing with both attributes beside drawing without, after one of each to warm up."""
    if len(uses) < 2 or bench.late(f"{model.family}, mixing"):
        return
    times, steps = {}, 2 if bench.rehearse else 20
    for name, mix in (("plain", Mix(model)), ("mixed", Mix(model, **uses))):
        for count in (2, steps):
            began = bench.wait()
            mix.draw("a photo of a *m with *a appearance", steps=count)
            times[name] = bench.wait() - began
    bench.notes.append(
        f"{model.family}: {steps} mixed steps took {times['mixed']:.2f} s, plain ones {times['plain']:.2f} s "
        f"({times['mixed'] / times['plain']:.2f}).")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, small")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    if not (options.rehearse or torch.cuda.is_available()):
        raise SystemExit("there is no GPU here; --rehearse runs it in small on the CPU")
    bench = Bench(resolve_device("cpu" if options.rehearse else "cuda"), options.steps, options.rehearse,
                  options.out)
    for family, size in SIZES.items():
        if bench.late(family):
            continue
        levels = len(FAMILIES[family].unet["block_out_channels"])
        unet = {"block_out_channels": [64] * levels} if options.rehearse else {}
        model = random_model(family, 64 if options.rehearse else size, bench.device, unet)
        for card in CARDS[:1] if options.rehearse else CARDS:
            uses = learned(bench, model, model.native_size, card)
            if card is None:
                bench.give(None)
                mixed(bench, model, uses)
        del model, uses
        gc.collect()
    bench.write()
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
