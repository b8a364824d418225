"""Calibrate the judge on pictures the pocket world draws, and on surfaces from elsewhere
(benchmarks/outside): ``python benchmarks/judge_calibration.py [--pictures N]``.

Writes ``judge_calibration.md`` and ``judge_calibration.json`` beside itself. No model takes part.
"""

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict, replace
from datetime import date
from itertools import islice
from pathlib import Path

import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.append(str(Path(__file__).resolve().parent / "outside"))

from changes import LOOKS, SERIES, blob, lit, recoloured

from escdiff_core.metrics import scores
from escdiff_core.metrics.comparison import appearance_again, shape_again
from escdiff_core.metrics.prompt_check import PARTS, check
from escdiff_core.metrics.reading import read
from escdiff_core.metrics.scores import Judge
from escdiff_core.reference.subject import object_mask
from escdiff_core.worlds.pocket import patterns, shapes
from escdiff_core.worlds.pocket.world import Spec, draw_spec, render, reserved_spec

SEED = 7              # none of the judge's own comparison pictures come from it
PROMPT_SEED = 4242    # of the prompt check, whose thresholds were set on pictures of seed 7
AGAIN = 12            # pictures per reference and condition
UNRELATED = 40
CONDITIONS = ("clean", "degraded")
# Held-out shapes with held-out patterns in turn, so that every name of both lists stands in the table; then
# known ones.
REFERENCES = [
    *zip(shapes.HELD_OUT, (list(patterns.HELD_OUT) * len(shapes.HELD_OUT)), strict=False), ("star", "dotted"),
    ("mug", "checkered"), ("heart", "gradient"), ("crown", "striped"), ("tree", "solid")
]


def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a small decoder does to a picture: blur of 1 pixel, noise of 0.02, colours a little off."""
    image = ndimage.gaussian_filter(image, (1, 1, 0)) * (1 + rng.normal(0, 0.03, 3)) + rng.normal(0, 0.015, 3)
    return np.clip(image + rng.normal(0, 0.02, image.shape), 0, 1).astype(np.float32)


def pictures(specs: list[Spec], condition: str) -> list[np.ndarray]:
    """Draw ``specs``, as they are or degraded."""
    rng = np.random.default_rng(SEED)
    drawn = [render(spec).image for spec in specs]
    return [degrade(image, rng) for image in drawn] if condition == "degraded" else drawn


def flattened(spec: Spec) -> np.ndarray:
    """The picture of ``spec`` with the subject in its mean colour."""
    picture = render(spec)
    cover = picture.mask[..., None]
    return picture.image * (1 - cover) + cover * (picture.image * cover).sum((0, 1)) / cover.sum()


def recoloured_specs(spec: Spec, seed: int) -> list[Spec]:
    """The pattern of ``spec`` in colours of which it has none."""
    drawn = (replace(draw_spec(np.random.default_rng((seed, i)), pattern=spec.pattern), period=spec.period)
             for i in range(100 * AGAIN))
    return list(islice((other for other in drawn if not set(other.colours) & set(spec.colours)), AGAIN))


def calibrate_reference(spec: Spec, seed: int) -> dict:
    """Floors, ceilings, and the scores of pictures that should be high, low, or nothing."""
    judge = Judge.of_spec(spec)
    row = {"shape": spec.shape, "pattern": spec.pattern, "colours": list(spec.colours), **asdict(judge.scale),
           "d_ceiling": judge.scale.distance_ceiling, "flat_A": judge.appearance(flattened(spec)).raw[0]}
    looks = appearance_again(spec, AGAIN, seed)
    others = [name for name in patterns.ALL if name not in (spec.pattern, "solid")]
    groups = {"same_shape": shape_again(spec, AGAIN, seed), "same_look": looks,
              "unrelated": [reserved_spec(seed, i) for i in range(UNRELATED)]}
    if spec.pattern != "solid":
        groups["same_colours"] = [
            replace(look, pattern=others[i % len(others)]) for i, look in enumerate(looks)
        ]
    groups["same_pattern"] = recoloured_specs(spec, seed)
    for condition in CONDITIONS:
        for name, specs in groups.items():
            seen = scores.readings(pictures(specs, condition))
            for letter, score in (("S", judge.shape(seen)), ("A", judge.appearance(seen))):
                row[f"{condition}_{name}_{letter}"] = float(np.mean(score.raw))
                row[f"{condition}_{name}_{letter}_sd"] = float(np.std(score.raw))
    return row


def calibrate_surfaces() -> dict:
    """Scores of surfaces that the world does not know: drawn again, in each other's colours or pattern, and
    changed."""
    rows, series = [], {name: np.zeros((len(LOOKS), len(levels))) for name, (_, levels) in SERIES.items()}
    rng = np.random.default_rng(SEED)
    drawn = {name: [lit(draw(rng), rng) for _ in range(len(LOOKS))] for name, draw in LOOKS.items()}
    masks = [blob(rng) for _ in LOOKS]
    for i, (name, looks) in enumerate(drawn.items()):
        judge = Judge.of_picture(lit(LOOKS[name](rng), rng), blob(rng))
        others = [
            (images[i], mask)
            for (other, images), mask in zip(drawn.items(), masks, strict=True)
            if other != name
        ]
        def score(images, judge=judge):
            return judge.appearance([read(image, mask) for image, mask in zip(images, masks, strict=False)])
        wrong = score([recoloured(own, image) for own, (image, _) in zip(looks, others, strict=False)])
        rows.append({
            "surface": name, "d_ceiling": judge.scale.distance_ceiling, "again": score(looks).mean,
            "degraded": score([degrade(image, rng) for image in looks]).mean, "same_colours": wrong.mean,
            "same_colours_worst": max(wrong.values), "same_pattern": score([
                recoloured(image, own) for own, (image, _) in zip(looks, others, strict=False)
            ]).mean, "unrelated": score([image for image, _ in others]).mean,
            "flat": score([look * 0 + look.mean((0, 1)) for look in looks]).mean
        })
        for change, (make, levels) in SERIES.items():
            series[change][i] = [score([make(look, level) for look in looks[:4]]).mean for level in levels]
    return {"rows": rows, "series": {name: values.mean(0).tolist() for name, values in series.items()}}


def calibrate_prompt(count: int) -> dict:
    """Share of right parts accepted, and of wrong parts accepted, over ``count`` held-back pictures."""
    result = {}
    for condition in CONDITIONS:
        specs, others = ([reserved_spec(PROMPT_SEED + k, i) for i in range(count)] for k in (0, 1))
        drawn = pictures(specs, condition)
        check(drawn[0], specs[0])
        start = time.process_time()
        accepted = [check(image, spec) for image, spec in zip(drawn, specs, strict=True)]
        result[f"{condition}_ms"] = 1000 * (time.process_time() - start) / count
        fooled = [check(image, other) for image, other in zip(drawn, others, strict=True)]
        differs = {part: [set(np.atleast_1d(getattr(a, part))) != set(np.atleast_1d(getattr(b, part)))
                          for a, b in zip(specs, others, strict=True)] for part in PARTS}
        masks = [
            ((found := object_mask(image)) & (true := render(spec).mask > 0.5)).sum() / (found | true).sum()
            for image, spec in zip(drawn, specs, strict=True)
        ]
        result[condition] = {
            "accepted": {part: float(np.mean([getattr(r, part) for r in accepted])) for part in PARTS},
            "wrongly_accepted": {part: float(np.mean([getattr(r, part) for r, d in zip(fooled, differs[part],
                                                                                     strict=True) if d]))
                                 for part in PARTS},
            "mask_iou": float(np.mean(masks)), "mask_iou_worst": float(np.min(masks))}
    return result


def table(header: list[str], rows: list[list]) -> str:
    """A Markdown table; numbers with two decimals."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(f"{x:.2f}" if isinstance(x, float) else str(x) for x in line) + " |"
                     for line in lines)


def report(result: dict) -> str:
    """The calibration as a Markdown page."""
    rows, prompt = result["references"], result["prompt_check"]
    floors = table([
        "reference", "IoU floor", "IoU ceiling", "colour floor", "colour ceiling", "texture floor",
        "texture ceiling", "d ceiling (floor 1)"
    ], [[
        f"{r['shape']}, {' and '.join(r['colours'])} {r['pattern']}", r["iou_floor"], r["iou_ceiling"],
        r["colour_floor"], r["colour_ceiling"], r["texture_floor"], r["texture_ceiling"], r["d_ceiling"]
    ] for r in rows])
    parts = []
    for condition in CONDITIONS:
        columns = [
            f"{condition}_{name}" for name in ("same_shape_S", "same_shape_A", "same_look_S", "same_look_A",
                                               "same_colours_A", "same_pattern_A", "unrelated_S",
                                               "unrelated_A")
        ]
        body = [
            [f"{r['shape']}, {r['pattern']}", *(r.get(c, "–") for c in columns), r["flat_A"]] for r in rows
        ]
        mean = ["**mean**", *(float(np.mean([r[c] for r in rows if c in r])) for c in columns),
                float(np.mean([r["flat_A"] for r in rows if r["pattern"] != "solid"]))]
        parts.append(f"### {condition.capitalize()} pictures\n\n" + table([
            "reference", "same shape: S", "its A (leak)", "same appearance: its S (leak)", "A",
            "same colours, other patterns: A", "same pattern, other colours: A", "unrelated: S",
            "unrelated: A", "flat mean colour: A"
        ], [*body, mean]))
    found = result["surfaces"]
    keys = ("again", "degraded", "same_colours", "same_colours_worst", "same_pattern", "unrelated", "flat",
            "d_ceiling")
    elsewhere = table(["surface", "drawn again", "degraded", "same colours, other patterns", "worst of these",
                       "same pattern, other colours", "unrelated", "flat mean colour", "d ceiling"],
                      [*([r["surface"], *(r[k] for k in keys)] for r in found["rows"]),
                       ["**mean**", *(float(np.mean([r[k] for r in found["rows"]])) for k in keys)]])
    graded = table(["change", "none", "", "", "", "most"], [[
        name, *(f"{score:.2f} ({level:g})"
                for score, level in zip(found["series"][name], levels, strict=True))
    ]
                                                            for name, (_, levels) in SERIES.items()])
    checks = table([
        "pictures", *(f"{part} accepted" for part in PARTS), *(f"wrong {part} accepted" for part in PARTS),
        "mask IoU", "worst", "CPU ms a picture"
    ], [[
        condition, *(f"{prompt[condition]['accepted'][part]:.1%}"
                     for part in PARTS), *(f"{prompt[condition]['wrongly_accepted'][part]:.1%}"
                                           for part in PARTS), f"{prompt[condition]['mask_iou']:.3f}",
        f"{prompt[condition]['mask_iou_worst']:.3f}",
        round(prompt[f"{condition}_ms"])
    ]
        for condition in CONDITIONS])
    return f"""# Calibration of the judge

`python benchmarks/judge_calibration.py --pictures {result['pictures']}`, {result['machine']},
{result['date']}. Everything but the surfaces from elsewhere is measured on pictures the pocket world draws,
with seeds the judge's own comparison pictures do not use. *Degraded*: blurred by 1 pixel, noise of 0.02, each
channel's gain off by 3 %, its level by 0.015 (standard deviations).

## Floors and ceilings

Floor: the reference against other shapes (mean), and against other patterns in other colours (a third of them
have nearer colours, a quarter a nearer texture). Ceiling: the same shape in other poses and appearances; the
same pattern and colours on other shapes, turned and shifted. Colour in CIELAB units. d is the worse of colour
and texture distance, each divided by its floor, and at most 1.

{floors}

A pattern of few large parts (rayed, diamonded) on a thin shape shows too little of itself: the higher its *d
ceiling*, the noisier its A.

## Scores that should be high, low, or nothing

{AGAIN} pictures a cell, {UNRELATED} unrelated ones, means before clipping: 0 = floor, 1 = ceiling. Unrelated
pictures may share a name with the reference by chance. A flat picture is right for a solid reference; the
mean leaves that row out.

{parts[0]}

{parts[1]}

Standard deviation of one unrelated picture's score, clean: S {result['spread_S']:.2f}, A
{result['spread_A']:.2f}. So a leak is read off the mean of many pictures, never off one.

## Surfaces from elsewhere

A of the eight surfaces of [benchmarks/outside](outside/) and of four kinds of noise, none of which the world
can draw; {len(LOOKS)} pictures a cell on random round silhouettes, turned, shifted and lit anew, means cut
off at 0 and 1. *Same colours*: the surface's own pixels in the pattern of each other one; *same pattern*: the
other way round. Scales and bricks of one period, or leopard's and other spots, are alike to the eye too: they
are the worst. A plaid blurred by 5 pixels still has its broad bands, and A says so. One piece of wood or of
large spots is not all of it: more of the same scores below 1.

{elsewhere}

How A falls when a surface is changed step by step (how much in brackets), mean of all of them:

{graded}

## Prompt check

{result['pictures']} held-back pictures; *wrong accepted*: checked against another picture's words where they
differ. The mask's weak spot: a gradient that passes through the colour of its own background, as yellow to
blue on gray.

{checks}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--pictures", type=int, default=256, help="pictures for the prompt check (default 256)"
    )
    count = parser.parse_args().pictures
    rows = [calibrate_reference(draw_spec(np.random.default_rng((SEED, i)), shape, pattern), SEED + i)
            for i, (shape, pattern) in enumerate(REFERENCES)]
    result = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "pictures": count,
        "references": rows,
        "surfaces": calibrate_surfaces(),
        "prompt_check": calibrate_prompt(count),
        **{f"spread_{x}": float(np.mean([r[f"clean_unrelated_{x}_sd"] for r in rows])) for x in "SA"},
    }
    here = Path(__file__).resolve()
    here.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    here.with_suffix(".md").write_text(report(result), encoding="utf-8")
    print(f"wrote {here.with_suffix('.md').name} and {here.with_suffix('.json').name}")


if __name__ == "__main__":
    main()
