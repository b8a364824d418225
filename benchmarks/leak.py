"""Does an appearance bring its reference's shape along? ``python benchmarks/leak.py out/method``, after that benchmark.

``bench`` asks each appearance for four shapes, and which four decides much: a circle is near a square whoever draws it. Here every
known shape but the reference's own is asked for once, which is the population that the judge's floor stands for. Beside it: the
plain model with the same prompts and seeds, and the exact drawings of the same shapes.
"""

import argparse
import datetime
import platform
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from escdiff_core.attribute import Attribute
from escdiff_core.bench import protocol
from escdiff_core.bench.run import Store
from escdiff_core.method.mix import Mix, Use
from escdiff_core.model.load import load_model
from escdiff_core.pocket import colours, shapes
from escdiff_core.pocket.config import GUIDANCE
from escdiff_core.pocket.world import Spec, draw_spec, render
from escdiff_core.words import with_articles


def asked(subject: protocol.Subject, seed: int) -> list[tuple[Spec, str]]:
    """A specification of every known shape but the reference's, and a background that stands apart from the reference's colours."""
    free = [c for c in colours.distinct_from(subject.colours) if c != subject.background]
    names = [name for name in shapes.KNOWN if name not in subject.words]
    return [(draw_spec(np.random.default_rng((404, seed, i)), shape=name), free[i % len(free)]) for i, name in enumerate(names)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", type=Path, metavar="DIR", help="what `bench --recipes escdiff --seeds 2 --budgets 60` wrote")
    parser.add_argument("--appearances", type=int, default=3, metavar="N")
    parser.add_argument("--seeds", type=int, default=2, metavar="N")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="DIR")
    options = parser.parse_args()
    model, store = load_model("pocket"), Store(options.benchmark)
    lines, every = [], {"attribute": [], "plain model": [], "exact drawings": []}
    for i, spec in enumerate(protocol.appearance_references(options.appearances)):
        subject = protocol.Subject.of_spec("appearance", spec)
        for seed in range(options.seeds):
            use = Use(Attribute.load(store.file("escdiff", "appearance", i, seed, 60.0, suffix=".safetensors")))
            specs = asked(subject, seed)
            images = {"exact drawings": [render(s).image for s, _ in specs]}
            for name, mix, word in (("attribute", Mix(model, appearance=use), use.attribute.token),
                                    ("plain model", Mix(model), "plain")):
                prompts = [with_articles(f"a {s.shape} with {word} appearance on a {behind} background") for s, behind in specs]
                images[name] = mix.draw(prompts, guidance_scale=GUIDANCE, seed=5000 + 100 * seed)
            scores = {name: subject.judge.shape(pictures).raw for name, pictures in images.items()}
            for name in every:
                every[name] += scores[name]
            own = subject.judge.appearance(images["attribute"]).mean
            lines.append(f"| {spec.pattern} on a {spec.shape} | {seed} | {len(specs)} | " + " | ".join(
                f"{np.mean(scores[name]):.2f}" for name in every) + f" | {own:.2f} |")
            print(lines[-1], flush=True)
    means = " | ".join(f"{np.mean(scores):.2f}" for scores in every.values())
    page = ["# Does an appearance bring its reference's shape along?", "",
            f"`python {' '.join(['benchmarks/leak.py', *sys.argv[1:]])}`, {datetime.date.today().isoformat()}, "
            f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads.", "",
            "Leak is S against the appearance's own reference, here over every known shape but its own, one picture each: the "
            "population that S = 0 stands for.", "", f"| reference | seed | shapes | {' | '.join(every)} | A of the attribute |",
            "|---|---|---|---|---|---|---|", *lines, f"| all | | | {means} | |", ""]
    (options.out / "leak.md").write_text("\n".join(page))
    print("\n".join(page))


if __name__ == "__main__":
    main()
