"""Does a pool of draws with cached encoder features cost quality? ``python benchmarks/cached.py``

The decoder-only recipe learns held-out appearances twice, in as many steps from the same seed: once with fresh draws, once from the
pool whose encoder features were computed before the first step (each 256 draws of view, timestep and noise).
"""

import argparse
import datetime
import platform
import sys
import time
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
            means[cached].append((scores.appearance, scores.leak, scores.prompt))
            cells += [f"{x:.2f}" for x in means[cached][-1]]
            print(spec.pattern, "cached" if cached else "fresh", *cells[-3:], f"{time.perf_counter() - began:.0f} s", flush=True)
        lines.append(f"| {spec.pattern} on a {spec.shape} | {' | '.join(cells)} |")
    every = [f"{x:.2f}" for cached in (False, True) for x in np.mean(means[cached], axis=0)]
    save_text("\n".join([
        "# Do cached encoder features cost quality?", "",
        f"`python {' '.join(['benchmarks/cached.py', *sys.argv[1:]])}`, {datetime.date.today().isoformat()}, "
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads.", "",
        f"`{RECIPE}`, {options.steps} steps, {protocol.PICTURES} pictures a cell; what caching saves in time: "
        "[tuning_speed.md](tuning_speed.md).", "",
        "| reference | fresh draws: A | leak | P | cached pool: A | leak | P |", "|---|---|---|---|---|---|---|", *lines,
        f"| all | {' | '.join(every)} |", ""]), options.out / "cached.md")
    print((options.out / "cached.md").read_text())


if __name__ == "__main__":
    main()
