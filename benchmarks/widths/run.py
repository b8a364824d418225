"""One recipe on one model at three widths: ``python benchmarks/widths/run.py [--steps N] [--out FILE]``

The pocket's UNet is made 2 and 4 times as wide without changing what it computes (widen.py). At a rate that
carries over the same recipe then learns the same on all three; an absolute rate is for one width alone. The
filter and what it sees are the pocket's own at every width: their sizes are not what is asked about here.
"""

import argparse
import datetime
import platform
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from widen import widened

from escdiff_core.bench import protocol
from escdiff_core.bench.protocol import Subject
from escdiff_core.families.load import load_model
from escdiff_core.learning.drift import drift_of
from escdiff_core.learning.encoders import choose_encoder, choose_filter
from escdiff_core.learning.learn import prepare
from escdiff_core.learning.recipes import DEFAULTS, find_recipe
from escdiff_core.learning.start import read_features
from escdiff_core.mixing.plan import Use
from escdiff_core.pictures import save_text

REFERENCES = {"shape": protocol.shape_references, "appearance": protocol.appearance_references}
# changes of the default recipes; an absolute rate is what the relative one comes to on the pocket itself
WAYS = {
    "whole weights, relative": {"form": "full", "relative": True, "lr_weights": 0.05, "lr_token": 0.22},
    "whole weights, absolute": {"form": "full", "relative": False, "lr_weights": 1e-3, "lr_token": 5e-3},
    "LoRA, relative": {"form": "lora", "relative": True, "lr_weights": 0.05, "lr_token": 0.22},
    "LoRA, absolute": {"form": "lora", "relative": False, "lr_weights": 2e-3, "lr_token": 5e-3},
}


def learn(pocket, model, kind: str, changes: dict, steps: int, batch: int) -> dict:
    """What a width comes to: mean losses of the run's quarters, the score of its own kind, and the drift."""
    recipe = replace(find_recipe(DEFAULTS[kind], steps=steps, batch_size=batch), **changes)
    encoder = choose_encoder("auto", pocket)
    subject = Subject.of_spec(kind, REFERENCES[kind](1)[0])
    features = read_features(pocket, [subject.reference], recipe, encoder, 0)
    tuner = prepare(model, [subject.reference], recipe, 0, subject.describe, subject.class_word, encoder,
                    choose_filter(None, recipe, pocket, encoder), features=features)
    attribute = tuner.run()
    scores = protocol.DRAW[kind](model, Use(attribute), subject, 0, guidance=pocket.usual_guidance).scores
    quarters = [float(np.mean(part)) for part in np.array_split(tuner.report.losses, 4)]
    own = scores.shape if kind == "shape" else scores.appearance
    return {"losses": quarters, "own": own, "leak": scores.leak, "prompt": scores.prompt,
            "drift": drift_of(tuner)}


def row(kind: str, way: str, factor: int, found: dict) -> str:
    losses = " ".join(f"{loss:.3f}" for loss in found["losses"])
    return (f"| {kind} | {way} | {factor} | {losses} | {found['own']:.2f} | {found['leak']:.2f} | "
            f"{found['prompt']:.2f} | {found['drift']:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--kinds", nargs="+", default=list(DEFAULTS), choices=list(DEFAULTS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    pocket = load_model("pocket", "cpu")
    rows = []
    for factor in options.factors:
        model = widened(pocket, factor) if factor > 1 else pocket
        for kind in options.kinds:
            for way in options.ways:
                found = learn(pocket, model, kind, WAYS[way], options.steps, options.batch)
                rows.append(row(kind, way, factor, found))
                print(rows[-1], flush=True)
    text = "\n".join([
        "# One recipe at three widths", "",
        f"`python benchmarks/widths/run.py --steps {options.steps} --batch {options.batch}`, "
        f"{datetime.date.today()}, {platform.machine()}. Drift: see learning/drift.py.", "",
        "| kind | way | width | mean loss of each quarter | S or A | leak | P | drift |",
        "|---|---|---|---|---|---|---|---|", *rows, ""
    ])
    if options.out:
        save_text(text, options.out)


if __name__ == "__main__":
    main()
