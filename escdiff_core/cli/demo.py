"""``demo``: two held-out references, what is learned from them, and what it draws, on the pocket model."""

import argparse
import time
from dataclasses import asdict
from pathlib import Path

from ..pictures import draw_sheet, save_picture, save_report
from .common import output_folder, progress_bar

PROMPTS = (
    "a photo of a red and white striped star on a blue background", "a green heart on a yellow background",
    "a purple and yellow dotted circle on a white background", "a blue and orange checkered house on a pink background",
    "a black and white ringed hexagon on a red background", "an orange and blue gradient fish on a black background",
    "a pink mushroom on a teal background", "a yellow and black zigzag crown on a gray background",
)


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("out/demo"), metavar="DIR")
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda")
    parser.add_argument("--steps", type=int, metavar="N", help="of learning; default: the recipes' own")
    parser.add_argument("--seed", type=int, default=0, metavar="N")


def run(options: argparse.Namespace) -> None:
    from ..bench.protocol import DRAW, Subject, appearance_references, draw_mix, shape_references
    from ..method.encoders import choose_encoder, choose_filter
    from ..method.plan import Use
    from ..method.recipes import DEFAULTS, find_recipe
    from ..method.tune import Tuner
    from ..model.load import load_model
    from ..model.sample import sample
    from ..pocket.config import GUIDANCE

    folder = output_folder(options.out)
    began = time.monotonic()
    model = load_model("pocket", options.device)
    times = {"load": time.monotonic() - began}

    start = time.monotonic()
    pictures = sample(model, PROMPTS, guidance_scale=GUIDANCE, seed=options.seed, progress=progress_bar("prompts"))
    times["eight_pictures_30_steps"] = time.monotonic() - start
    draw_sheet([("The pocket model, prompted", list(zip(pictures, PROMPTS, strict=True)))], folder / "prompts.png")
    print(f"eight prompts drawn in {times['eight_pictures_30_steps']:.1f} s: {folder / 'prompts.png'}", flush=True)

    specs = {"shape": shape_references(1)[0], "appearance": appearance_references(1)[0]}
    subjects = {kind: Subject.of_spec(kind, spec) for kind, spec in specs.items()}
    encoder = choose_encoder("auto", model)
    uses, learned = {}, {}
    for kind, spec in specs.items():
        recipe = find_recipe(DEFAULTS[kind], steps=options.steps)
        tuner = Tuner(model, [subjects[kind].reference], recipe, options.seed, encoder=encoder,
                      network=choose_filter(None, recipe, model, encoder))
        bar = progress_bar(f"learning {kind}")
        start = time.monotonic()
        attribute = tuner.run(lambda p, bar=bar: bar(p.step, p.steps))
        times[f"learn_{kind}"] = time.monotonic() - start
        attribute.save(folder / f"{kind}.safetensors")
        save_picture(subjects[kind].reference.image, folder / f"{kind}_reference.png")
        uses[kind] = Use(attribute)
        learned[kind] = {"recipe": recipe.name, "preset": recipe.preset, "steps": attribute.steps,
                         "reference": spec.to_json(), **{k: v for k, v in asdict(tuner.report).items() if k != "losses"}}
        print(f"{kind} of the {subjects[kind].name} reference learned in "
              f"{times[f'learn_{kind}']:.1f} s", flush=True)

    start = time.monotonic()
    drawn = {kind: DRAW[kind](model, uses[kind], subjects[kind], options.seed) for kind in subjects}
    for name, pair in {"mix": uses.values(), "control": (None, None)}.items():
        drawn[name] = draw_mix(model, *pair, *subjects.values(), options.seed)
    times["draw_and_judge"] = time.monotonic() - start
    times["all"] = time.monotonic() - began
    titles = {"shape": "The shape, in other appearances", "appearance": "The appearance, on other shapes",
              "mix": "The shape of the first with the appearance of the second", "control": "Control: the plain model"}
    rows = [("References", [(subjects[k].reference.image, f"{k} from here") for k in specs])]
    rows += [(title, list(zip(drawn[k].images, drawn[k].prompts, strict=True))) for k, title in titles.items()]
    draw_sheet(rows, folder / "sheet.png")
    report = {
        "scores": {k: {n: v for n, v in asdict(d.scores).items() if v is not None} for k, d in drawn.items()},
        "harmonic": {k: drawn[k].scores.harmonic for k in ("mix", "control")},
        "leak_matrix": {"shape attribute": {"shape": drawn["shape"].scores.shape, "appearance": drawn["shape"].scores.leak},
                        "appearance attribute": {"shape": drawn["appearance"].scores.leak,
                                                 "appearance": drawn["appearance"].scores.appearance}},
        "scales": {k: asdict(s.judge.scale) for k, s in subjects.items()}, "learned": learned,
        "seconds": {k: round(v, 2) for k, v in times.items()},
    }
    save_report(report, folder / "report.json")
    print(_summary(report))
    print(f"pictures: {folder / 'sheet.png'}; figures: {folder / 'report.json'}; {times['all']:.0f} s in all")


def _summary(report: dict) -> str:
    matrix, mix = report["leak_matrix"], report["scores"]["mix"]
    cells = [f"{name}: shape {row['shape']:.2f}, appearance {row['appearance']:.2f}" for name, row in matrix.items()]
    return "\n".join([*cells, f"mix: S {mix['shape']:.2f}, A {mix['appearance']:.2f}, P {mix['prompt']:.2f}, H "
                              f"{report['harmonic']['mix']:.2f} (plain model: {report['harmonic']['control']:.2f})"])
