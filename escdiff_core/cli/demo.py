"""``demo``: a duck's outline and a giraffe's coat are learned from one picture each, and drawn together, on
the pocket model."""

import argparse
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from ..extras import need
from ..pictures import draw_sheet, save_picture, save_report
from .common import add_seed, check_seed, output_folder
from .drawings import duck, giraffe

PROMPTS = ("a photo of a red and white striped star on a blue background",
           "a green heart on a yellow background", "a purple and yellow dotted circle on a white background",
           "a blue and orange checkered house on a pink background",
           "a black and white ringed hexagon on a red background",
           "an orange and blue gradient fish on a black background", "a pink mushroom on a teal background",
           "a yellow and black zigzag crown on a gray background",
           )
REFERENCES = {"shape": ("duck", duck), "appearance": ("giraffe", giraffe)}
DRAWINGS = ("shape", "appearance", "mix", "control")
# What is done, and about how much of the time it takes of two CPU cores: the bar's time left is for all of it
SHARES = {"prompts": 9, "learning shape": 38, "learning appearance": 35, "drawing": 18}
ZOOM = 2              # of the sheet's pictures, which are small


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("out/demo"), metavar="DIR")
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda")
    parser.add_argument("--steps", type=int, metavar="N", help="of learning; default: the recipes' own")
    add_seed(parser)


class WholeBar:
    """One bar over everything, with the time left, on a terminal; nothing elsewhere."""

    def __init__(self):
        self.bar = tqdm(total=sum(SHARES.values()), disable=not sys.stderr.isatty(), leave=False,
                        smoothing=0.1,
                        bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left")

    def stage(self, name: str) -> Callable[[int, int], None]:
        """A callback ``(done, total)`` for the stage ``name`` of ``SHARES``; stages come in their order."""
        start = sum(list(SHARES.values())[:list(SHARES).index(name)])
        self.bar.set_description_str(f"{name:19}")

        def show(done: int, total: int) -> None:
            self.bar.update(max(0.0, start + SHARES[name] * done / total - self.bar.n))

        return show


def run(options: argparse.Namespace) -> None:
    need("demo", "ot")
    check_seed(options.seed)
    from ..bench.protocol import DRAW, Subject, draw_mix
    from ..families.load import load_model
    from ..learning.encoders import choose_encoder
    from ..learning.learn import learn
    from ..learning.recipes import DEFAULTS, find_recipe
    from ..mixing.plan import Use
    from ..model.sample import Drawing, sample
    from ..worlds.pocket.config import GUIDANCE

    folder = output_folder(options.out)
    began = time.monotonic()
    model = load_model("pocket", options.device)
    times, whole = {"load": time.monotonic() - began}, WholeBar()

    start = time.monotonic()
    pictures = sample(
        model,
        PROMPTS,
        how=Drawing(guidance_scale=GUIDANCE, seed=options.seed),
        progress=whole.stage("prompts"),
    )
    times["eight_pictures_30_steps"] = time.monotonic() - start
    draw_sheet(
        [("The pocket model, prompted", list(zip(pictures, PROMPTS, strict=True)))], folder / "prompts.png"
    )
    whole.bar.write(
        f"eight prompts drawn in {times['eight_pictures_30_steps']:.1f} s: {folder / 'prompts.png'}",
        sys.stdout,
    )

    encoder = choose_encoder("auto", model)
    subjects, uses, learned = {}, {}, {}
    for kind, (name, draw) in REFERENCES.items():
        path = folder / f"{kind}_reference.png"
        save_picture(draw(), path)
        subjects[kind] = replace(Subject.of_picture(path, "auto", model.native_size), name=name)
        recipe = find_recipe(DEFAULTS[kind], steps=options.steps)
        show = whole.stage(f"learning {kind}")
        start = time.monotonic()
        attribute, figures = learn(model, [subjects[kind].reference], recipe, options.seed, encoder=encoder,
                                   on_step=lambda p, show=show: show(p.step, p.steps))
        times[f"learn_{kind}"] = time.monotonic() - start
        attribute.save(folder / f"{kind}.safetensors")
        uses[kind] = Use(attribute)
        learned[kind] = {
            "recipe": recipe.name,
            "preset": recipe.preset,
            "steps": attribute.steps,
            "reference": name,
            **{k: v for k, v in asdict(figures).items() if k != "losses"},
        }
        whole.bar.write(f"{kind} of the {name} learned in {times[f'learn_{kind}']:.1f} s", sys.stdout)

    start, show, drawn = time.monotonic(), whole.stage("drawing"), {}
    for number, what in enumerate(DRAWINGS, 1):
        pair = (None, None) if what == "control" else tuple(uses.values())
        drawn[what] = DRAW[what](model, uses[what], subjects[what], options.seed) if what in DRAW else \
            draw_mix(model, *pair, *subjects.values(), options.seed)
        show(number, len(DRAWINGS))
    whole.bar.close()
    times["draw_and_judge"] = time.monotonic() - start
    times["all"] = time.monotonic() - began
    draw_sheet(_rows(subjects, drawn), folder / "sheet.png", columns=6, zoom=ZOOM)
    report = {
        "scores": {k: {n: v for n, v in asdict(drawn[k].scores).items() if v is not None} for k in DRAWINGS},
        "harmonic": {k: drawn[k].scores.harmonic for k in ("mix", "control")},
        "leak_matrix": {
            "shape attribute": {
                "shape": drawn["shape"].scores.shape,
                "appearance": drawn["shape"].scores.leak,
            },
            "appearance attribute": {
                "shape": drawn["appearance"].scores.leak,
                "appearance": drawn["appearance"].scores.appearance,
            },
        },
        "scales": {k: asdict(s.judge.scale) for k, s in subjects.items()},
        "learned": learned,
        "seconds": {k: round(v, 2) for k, v in times.items()},
    }
    save_report(report, folder / "report.json")
    print(_summary(report))
    print(f"pictures: {folder / 'sheet.png'}; figures: {folder / 'report.json'}; {times['all']:.0f} s in all")


def _rows(subjects: dict, drawn: dict) -> list:
    """The sheet: beside the two pictures what was drawn of both, then what was drawn of each, then the plain
    model."""
    a = (subjects["shape"].reference.image, "A: a duck. Its outline is learned")
    b = (subjects["appearance"].reference.image, "B: a giraffe's coat. Its surface is learned")
    titles = {"mix": ("The outline of A with the surface of B", (a, b)),
              "shape": ("The outline of A alone, in looks that the prompt names", (a,)),
              "appearance": ("The surface of B alone, on shapes that the prompt names", (b,)),
              "control": ("For comparison: the same model before it learned anything", ())}

    return [(title, [*beside, *zip(drawn[kind].images, map(caption, drawn[kind].prompts), strict=True)])
            for kind, (title, beside) in titles.items()]


def caption(prompt: str) -> str:
    """What a prompt asks for besides the attributes: a row's title names those."""
    rest = re.sub(r"^a photo of | with (\*a|plain) appearance", "", prompt)
    return re.sub(r"^an? (.*?) ?\*m |^an? \*m |^an? object ", r"\1 ", rest).strip()


def _summary(report: dict) -> str:
    matrix, mix = report["leak_matrix"], report["scores"]["mix"]
    cells = [
        f"{name}: shape {row['shape']:.2f}, appearance {row['appearance']:.2f}"
        for name, row in matrix.items()
    ]
    return "\n".join([
        *cells, f"mix: S {mix['shape']:.2f}, A {mix['appearance']:.2f}, P {mix['prompt']:.2f}, H "
        f"{report['harmonic']['mix']:.2f} (plain model: {report['harmonic']['control']:.2f})"
    ])
