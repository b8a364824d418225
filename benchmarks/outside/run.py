"""What a model makes of pictures from outside the pocket world: ``python benchmarks/outside/run.py --name
pocket``.

(a) The round trip of its autoencoder, nothing learned: the eight surfaces, the eight shapes, and photographs
if a folder is given. (b) Mixes: each shape and each surface learned with the default recipes for
``--seconds``, then mixed in pairs. Writes ``results/NAME.md``, ``.json`` and ``.jpg`` beside itself; cells,
attributes and pictures go below ``--out``.
"""

import argparse
import datetime
import json
import platform
import shlex
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from escdiff_core.bench.contenders import CONTENDERS
from escdiff_core.bench.plan import CELLS, Experiment, Store
from escdiff_core.bench.run import Bench, run
from escdiff_core.bench.table import summary
from escdiff_core.cli.bench import own_subjects
from escdiff_core.cli.common import progress_bar
from escdiff_core.families.load import load_model
from escdiff_core.metrics.reading import read
from escdiff_core.metrics.scores import Judge, harmonic_mean
from escdiff_core.model.autoencoder import image_to_latents, latents_to_images
from escdiff_core.model.diffusion import DiffusionModel
from escdiff_core.pictures import compose_sheet
from escdiff_core.reference import load_reference

HERE = Path(__file__).resolve().parent
PICTURES = HERE / "pictures"
OURS = "escdiff"
FRAME = 6             # pixels: the outer edge, whose error is held against that of the rest
AIMS = {"mean A": 0.80, "least A": 0.50, "frame": 1.5, "S": 0.80, "A": 0.60, "P": 0.95, "H": 0.77}


def round_trip(
    model: DiffusionModel, paths: list[Path]
) -> tuple[list[dict], list[tuple[np.ndarray, np.ndarray]]]:
    """Encode and decode pictures, each with ``.mask.png`` beside it or none.

    A row each: PSNR in dB, the mean error of the outer ``FRAME`` pixels divided by that of the rest, and A of
    the subject where there is a mask. Also the pictures before and after, (h, w, 3), 0 to 1.
    """
    rows, pairs = [], []
    for path in paths:
        mask = path.with_suffix(".mask.png")
        reference = load_reference(path, mask if mask.exists() else "none", model.native_size)
        before = reference.image
        after = latents_to_images(model, image_to_latents(model, before[None]))[0]
        error, outer = np.abs(after - before).mean(-1), np.ones(before.shape[:2], bool)
        outer[FRAME:-FRAME, FRAME:-FRAME] = False
        row = {
            "picture": path.stem,
            "psnr": float(-10 * np.log10(max(((after - before) ** 2).mean(), 1e-10))),
            "frame": float(error[outer].mean() / max(error[~outer].mean(), 1e-6)),
        }
        if reference.mask is not None:
            row["A"] = Judge.of_picture(before, reference.mask).appearance([read(after, reference.mask)]).mean
        rows.append(row)
        pairs.append((before, after))
    return rows, pairs


def pictures(folder: Path, pattern: str = "*") -> list[Path]:
    """The pictures of ``folder``, masks left out."""
    return [p for p in sorted(folder.glob(pattern)) if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
            and not p.name.endswith(".mask.png")]


def means(rows: list[dict]) -> dict:
    """The mean of each figure over ``rows`` that have it, and the least A."""
    found = {key: float(np.mean([r[key] for r in rows if key in r])) for key in ("A", "psnr", "frame")
             if any(key in r for r in rows)}
    return found | ({"least_A": min(r["A"] for r in rows if "A" in r)} if "A" in found else {})


def mixes(model: DiffusionModel, load, options: argparse.Namespace) -> tuple[dict, Experiment, Store]:
    """Learn every reference and mix the pairs of the plan; what --out holds already is not measured again."""
    subjects = {
        kind: group[: options.references] for kind, group in own_subjects(PICTURES, model.native_size).items()
    }
    plan = Experiment([CONTENDERS[OURS]], subjects, [options.seconds])
    store = Store(options.out)
    bar = progress_bar("cells")
    cells = run(Bench(model, plan, store), options.workers, load,
                lambda done, total, what: (bar(done, total), print(f"{done}/{total} {what}", flush=True)))
    name = {kind: [s.name.removeprefix(f"{kind}_") for s in group] for kind, group in subjects.items()}
    mine = [c for c in cells if c["key"][0] == OURS]
    pairs = [{
        "shape": name["shape"][c["key"][2]], "appearance": name["appearance"][c["key"][3]], "S": c["shape"],
        "A": c["appearance"], "P": c["prompt"], "H": harmonic_mean(c["shape"], c["appearance"], c["prompt"]),
        "picture": str(store.file(*c["key"], suffix=".png"))
    } for c in mine if c["key"][1] == "mix"]
    alone = [{"kind": kind, "name": name[kind][c["key"][2]], **c["rows"][0]} for kind in subjects
             for c in mine if c["key"][1] == kind]
    rows = {r["contender"]: r for r in summary(cells, plan)}
    return {
        "mixes": pairs, "alone": alone,
        "all": {k: rows[OURS].get(k)
                for k in ("S", "A", "P", "H", "H_interval")},
        "plain": {k: rows["plain"].get(k)
                  for k in ("S", "A", "P", "H")}
    }, plan, store


def table(header: list[str], rows: list[list]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(f"{x:.2f}" if isinstance(x, float) else str(x) for x in line) + " |"
                     for line in lines)


def aim(value: float, name: str) -> str:
    """``0.83 (aim 0.80)``, and whether it is missed."""
    missed = value > AIMS[name] if name == "frame" else value < AIMS[name]
    return f"{value:.2f} (aim {AIMS[name]:.2f}{', missed' if missed else ''})"


def page(result: dict) -> str:
    """The results as a Markdown page."""
    parts = [f"# Pictures from outside the world: {result['name']}",
             f"`{result['command']}`, {result['machine']}, {result['date']}; model {result['model']}."]
    trips = result.get("round_trip", {})
    if trips:
        body = [
            [r["picture"].removeprefix("appearance_"), r["A"], f"{r['psnr']:.1f}", r["frame"]]
            for r in trips["surfaces"]
        ]
        mean = means(trips["surfaces"])
        body.append(
            ["**mean**", aim(mean["A"], "mean A"), f"{mean['psnr']:.1f}", aim(mean["frame"], "frame")]
        )
        body.append(["**least**", aim(mean["least_A"], "least A"), "", ""])
        rest = [[what, f"{len(rows)}", m.get("A", "–"), f"{m['psnr']:.1f}", m["frame"]]
                for what, rows in trips.items() if what != "surfaces" for m in [means(rows)]]
        parts += [
            "## Round trip of the autoencoder",
            "Nothing is learned: each picture is encoded and decoded. *Frame*: mean error of the "
            f"outer {FRAME} pixels divided by that of the rest.",
            table(["surface", "A", "PSNR, dB", "frame"], body),
            table(["other pictures", "count", "A of those with a mask", "PSNR, dB", "frame"], rest),
        ]
    found = result.get("learned", {})
    if found:
        total, plain = found["all"], found["plain"]
        body = [
            [f"{r['shape']} with {r['appearance']}", r["S"], r["A"], r["P"], r["H"]] for r in found["mixes"]
        ]
        body.append(["**all**", *(aim(total[k], k) for k in "SAPH")])
        body.append(["plain model, nothing learned", *(plain[k] for k in "SAPH")])
        alone = [
            [r["kind"], r["name"], r["own"], r["leak"], r["prompt"], r.get("steps", 0)]
            for r in found["alone"]
        ]
        span = total["H_interval"]
        parts += [
            f"## Mixes after {result['seconds']:g} seconds of learning each",
            "Default recipes, four pictures a mix. H is that of the mean scores"
            + (f"; its 95 % interval over references: {span[0]:.2f} to {span[1]:.2f}." if span else "."),
            table(["mix", "S", "A", "P", "H"], body),
            "Each alone: own kind, leak of the other, prompt.",
            table(["kind", "reference", "own", "leak", "prompt", "steps"], alone),
        ]
    return "\n\n".join(parts) + "\n"


def sheet(pairs: list, names: list[str], learned: dict):
    """Each surface above its round trip, then references and what was mixed of them."""
    from PIL import Image

    def opened(path):
        return np.asarray(Image.open(path).convert("RGB"), np.float32) / 255

    rows = [("Surfaces", [(before, name) for (before, _), name in zip(pairs, names, strict=True)]),
            ("Their round trips", [(after, "") for _, after in pairs])] if pairs else []
    for i, row in enumerate(learned.get("mixes", [])):
        both = [(opened(PICTURES / f"shape_{row['shape']}.png"), f"outline: {row['shape']}"),
                (opened(PICTURES / f"appearance_{row['appearance']}.png"), f"surface: {row['appearance']}")]
        wide = opened(row["picture"])
        drawn = np.split(wide, wide.shape[1] // wide.shape[0], 1)
        caption = f"S {row['S']:.2f}  A {row['A']:.2f}  P {row['P']:.2f}"
        rows.append(("" if i else "Mixes",
                     [*both, *((picture, caption if k == 0 else "") for k, picture in enumerate(drawn))]))
    return compose_sheet(rows, 8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", required=True, help="of the model, for the files of results")
    parser.add_argument("--model", default="pocket", metavar="pocket|PATH")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=60, help="of learning each reference (default 60)")
    parser.add_argument(
        "--references", type=int, default=8, help="of each kind (default 8, which makes 16 mixes)"
    )
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="more pictures for the round trip")
    parser.add_argument("--only", choices=["roundtrip", "mixes"])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on with what --out holds")
    parser.add_argument("--out", type=Path, help="default out/outside/NAME")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    options.out = options.out or Path("out/outside") / options.name
    if (options.out / CELLS).exists() and not options.resume and options.only != "roundtrip":
        parser.error(
            f"{options.out} holds a benchmark already; add --resume to go on with it, or give another --out"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    options.results.mkdir(parents=True, exist_ok=True)

    load = partial(load_model, options.model, options.device)
    model = load()
    machine = torch.cuda.get_device_name() if model.device.type == "cuda" else \
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    path = (options.results / options.name).with_suffix(".json")
    about = {"name": options.name, "command": "python benchmarks/outside/run.py " + shlex.join(sys.argv[1:]),
             "machine": machine, "date": datetime.date.today().isoformat(), "model": model.fingerprint[:12],
             "seconds": options.seconds}
    # The half that is not measured this time stays, as long as it is of the same model.
    old = json.loads(path.read_text()) if path.exists() else {}
    result = {**(old if old.get("model") == about["model"] else {}), **about}

    surfaces = pictures(PICTURES, "appearance_*")
    trips, pairs = round_trip(model, surfaces)
    if options.only != "mixes":
        result["round_trip"] = {"surfaces": trips, "shapes": round_trip(
            model, pictures(PICTURES, "shape_*"))[0]}
        if options.photographs:
            result["round_trip"]["photographs"] = round_trip(model, pictures(options.photographs))[0]
    if options.only != "roundtrip":
        result["learned"], *_ = mixes(model, load, options)
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(page(result))
    names = [p.stem.removeprefix("appearance_") for p in surfaces]
    mixed = result.get("learned", {}) if options.only != "roundtrip" else {}
    sheet(pairs, names, mixed).save(path.with_suffix(".jpg"), quality=90)
    print(page(result))


if __name__ == "__main__":
    main()
