"""Ideas that might have become recipes: ``python benchmarks/ideas.py``

On held-out references beside the four of the standard table, in as many steps and from the same seed:

- own pictures: half-way, the model draws what it has learned so far in other looks (a shape) or on other
  shapes (an appearance); the best half by the judge, which knows the one reference picture alone, become
  further views, named like the others. The time that this takes is not counted.
- divided: where both deltas of a mix change the same weights, each output channel is one's alone, instead of
  adding both changes (mixing.delta.own_channels; the default since).
"""

import argparse
import datetime
import platform
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from escdiff_core.attribute import Attribute
from escdiff_core.bench import protocol
from escdiff_core.bench.protocol import Subject
from escdiff_core.families.load import load_model
from escdiff_core.learning.encoders import choose_encoder, choose_filter
from escdiff_core.learning.learn import prepare
from escdiff_core.learning.recipes import DEFAULTS, find_recipe
from escdiff_core.learning.tune import Tuner
from escdiff_core.learning.views import Views, loss_weights
from escdiff_core.metrics.prompt_check import check
from escdiff_core.metrics.scores import Judge, harmonic_mean
from escdiff_core.mixing.mix import Mix
from escdiff_core.mixing.plan import Use
from escdiff_core.model.autoencoder import image_to_latents
from escdiff_core.model.diffusion import DiffusionModel
from escdiff_core.pictures import save_text
from escdiff_core.reference.subject import as_working, find_subject
from escdiff_core.worlds.pocket.captions import appearance_phrase
from escdiff_core.worlds.pocket.config import GUIDANCE
from escdiff_core.worlds.pocket.world import draw_spec

DRAWN, STEPS = 32, 20      # own pictures to choose from, and sampling steps for each
SEEDS = 2                  # of drawing
REFERENCES = {"shape": protocol.shape_references, "appearance": protocol.appearance_references}
ASKED = {"shape": ("background", "colours"), "appearance": ("background", "shape")}


def own_pictures(model: DiffusionModel, tuner: Tuner, subject: Subject) -> Views:
    """The run's views and what the model draws of the attribute so far, the better half of ``DRAWN``
    pictures."""
    kind, recipe, rng = tuner.recipe.kind, tuner.recipe, np.random.default_rng((tuner.seed, 21))
    specs = [draw_spec(rng, **({} if kind == "shape" else {"pattern": "solid"})) for _ in range(DRAWN)]
    rest = [appearance_phrase(s) if kind == "shape" else s.shape for s in specs]
    behind = [f"on a {s.background} background" for s in specs]
    prompts = [
        recipe.prompt(i, tuner.names.token, *words) for i, words in enumerate(zip(rest, behind, strict=True))
    ]
    uses = {kind: Use(tuner.attribute())}
    images = Mix(model, **uses).draw(prompts, steps=STEPS, guidance_scale=GUIDANCE, seed=7)
    reference = subject.reference
    judge = Judge.of_picture(reference.image, reference.mask)
    likeness = np.array((judge.shape if kind == "shape" else judge.appearance)(images).raw)
    right = np.array(
        [check(image, spec, ASKED[kind]).passed() for image, spec in zip(images, specs, strict=True)]
    )
    best = np.argsort(-np.where(right, likeness, likeness - 10))[: DRAWN // 2]
    latents = image_to_latents(model, images[best])
    masks = np.stack([find_subject(as_working(images[i])).mask for i in best]).astype(np.float32)
    views, weights = tuner.views, loss_weights(masks, latents, recipe)
    return Views(torch.cat([views.latents, latents]), torch.cat([views.weights, weights]),
                 (*views.rest, *(rest[i] for i in best)), (*views.behind, *(behind[i] for i in best)),
                 views.own + len(best))


def learn(model: DiffusionModel, subject: Subject, kind: str, with_own: bool, steps: int | None) -> Attribute:
    recipe, encoder = find_recipe(DEFAULTS[kind], kind, steps=steps), choose_encoder("auto", model)
    tuner = prepare(model, [subject.reference], recipe, 0, subject.describe, subject.class_word, encoder,
                  choose_filter(None, recipe, model, encoder))
    while tuner.done < recipe.steps // 2:
        tuner.step()
    if with_own:
        tuner.views = own_pictures(model, tuner, subject)
        tuner.draws = replace(tuner.draws, views=tuner.views)
    return tuner.run()


def measure(number: int, steps: int | None) -> Mapping[str, list[float]]:
    """S, leak, P of the shape, A, leak, P of the appearance, and S, A, P of mixes, for each way, on pair
    ``number``."""
    model = load_model("pocket")
    subjects = {
        kind: Subject.of_spec(kind, references(number + 1)[number]) for kind, references in REFERENCES.items()
    }
    found, first = {}, None
    for way in ("as it is", "own pictures"):
        learned = [
            learn(model, subject, kind, way == "own pictures", steps) for kind, subject in subjects.items()
        ]
        found[way] = scores(model, learned, subjects)
        first = first or learned
    found["divided"] = scores(model, first, subjects, "divide")
    return found


def scores(
    model: DiffusionModel, learned, subjects: Mapping[str, Subject], overlap: str = "add"
) -> list[float]:
    uses, rows, alone = [Use(a) for a in learned], [], overlap == "add"      # alone they do not overlap
    for seed in range(SEEDS):
        row = []
        for use, (kind, subject) in zip(uses, subjects.items(), strict=True):
            s = protocol.DRAW[kind](model, use, subject, seed).scores if alone else None
            row += [s.shape if kind == "shape" else s.appearance, s.leak, s.prompt] if alone else [np.nan] * 3
        s = protocol.draw_mix(model, *uses, *subjects.values(), seed, overlap=overlap).scores
        rows.append([*row, s.shape, s.appearance, s.prompt])
    return np.mean(rows, 0).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", type=int, default=4, metavar="N", help="held-out references to leave out")
    parser.add_argument(
        "--pairs", type=int, default=3, metavar="N", help="of a held-out shape and a held-out appearance"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="default: the recipes' own")
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N", help="processes side by side, a thread each"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="DIR")
    options = parser.parse_args()
    numbers = range(options.first, options.first + options.pairs)
    with ProcessPoolExecutor(options.workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        pairs = list(pool.map(measure, numbers, [options.steps] * len(numbers)))
    names = [
        f"{REFERENCES['shape'](n + 1)[n].shape} + {REFERENCES['appearance'](n + 1)[n].pattern}"
        for n in numbers
    ]
    lines = []
    for way in pairs[0]:
        rows = [
            *zip(names, (p[way] for p in pairs), strict=True),
            ("all", np.mean([p[way] for p in pairs], 0).tolist()),
        ]
        lines += [
            f"| {way} | {name} | "
            + " | ".join("" if np.isnan(x) else f"{x:.2f}" for x in (*row, harmonic_mean(*row[6:])))
            + " |"
            for name, row in rows
        ]
    save_text(
        "\n".join([
            "# Ideas that were tried", "", f"`python {' '.join(['benchmarks/ideas.py', *sys.argv[1:]])}`, "
            f"{datetime.date.today().isoformat()}, {platform.processor() or platform.machine()}. {SEEDS} "
            f"seeds of {protocol.PICTURES} pictures a cell.", "",
            *(line for line in __doc__.split("\n\n", 1)[1].strip().splitlines()), "",
            "| | pair | shape: S | leak | P | appearance: A | leak | P | mix: S | A | P | H |",
            "|---" * 12 + "|", *lines, ""
        ]), options.out / "ideas.md")
    print((options.out / "ideas.md").read_text())


if __name__ == "__main__":
    main()
