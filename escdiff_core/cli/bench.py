"""``bench``: every recipe on the same references, with the same time to learn, judged in the same way."""

import argparse
import datetime
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..errors import ESCDiffError
from ..extras import need
from .common import add_model, output_folder, progress_bar

STANDARD, QUICK = (15.0, 30.0, 60.0, 120.0), (20.0,)
# References of each kind and seeds, unless told otherwise: what two CPU cores measure in a few hours, and all
# that there are
SIZES = {"quick": {"shape": 1, "appearance": 1, "seeds": 1}, "cpu": {"shape": 4, "appearance": 4, "seeds": 1},
         "cuda": {"shape": 9, "appearance": 8, "seeds": 3}}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument(
        "--table",
        default="methods",
        choices=["methods", "ablations", "rates"],
        help="who is compared: every method, our own with one thing changed, or the field's at several rates",
    )
    parser.add_argument(
        "--recipes", nargs="+", metavar="NAME", help="some of the table's contenders; default: all"
    )
    parser.add_argument(
        "--references", type=Path, metavar="DIR",
        help="your own: DIR/shape_*.png and DIR/appearance_*.png, each with a .mask.png beside it")
    parser.add_argument(
        "--quick", action="store_true", help="one reference of each kind, 20 seconds of learning"
    )
    parser.add_argument("--shapes", type=int, metavar="N", help="held-out shapes; default 4, on a GPU all 9")
    parser.add_argument(
        "--appearances", type=int, metavar="N", help="held-out appearances; default 4, on a GPU 8"
    )
    parser.add_argument("--skip", type=int, default=0, metavar="N",
                        help="leave out the first N held-out references of each kind")
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="of learning and drawing; default 1, on a GPU 3"
    )
    parser.add_argument(
        "--budgets", type=float, nargs="+", metavar="S", help="seconds of learning; default 15 30 60 120"
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that share the machine's cores"
    )
    parser.add_argument("--resume", action="store_true", help="go on with what --out holds")
    add_model(parser)


def run(options: argparse.Namespace) -> None:
    need("bench", "ot", "matplotlib")
    from ..bench.contenders import TABLES
    from ..bench.plan import CELLS, Experiment, Store
    from ..bench.run import Bench, run
    from ..bench.table import write
    from ..errors import lookup
    from ..families.load import load_model

    known = TABLES[options.table]
    contenders = [lookup(known, name, "contender") for name in options.recipes or known]
    # what was searched for says nothing of another model
    if options.model != "pocket" and options.table != "rates":
        contenders = [replace(c, rates={}) for c in contenders]
    budgets = sorted(set(options.budgets or (QUICK if options.quick else STANDARD)))
    counts = [
        n
        for n in (options.seeds, options.shapes, options.appearances, options.workers, options.skip + 1)
        if n is not None
    ]
    if not all(0 < b < float("inf") for b in budgets) or min(counts) < 1:
        raise ESCDiffError(
            "budgets must be seconds above 0; seeds, shapes, appearances and workers whole numbers of "
            "at least 1, skip of at least 0"
        )
    folder = output_folder(options.out)
    if (folder / CELLS).exists() and not options.resume:
        raise ESCDiffError(
            f"{folder} holds a benchmark already; add --resume to go on with it, or give another --out"
        )
    load = partial(load_model, options.model, options.device)
    model = load()
    size = SIZES["quick" if options.quick else "cuda" if model.device.type == "cuda" else "cpu"]
    subjects = own_subjects(options.references, model.native_size) if options.references else \
        held_out(options, size, model.native_size)
    plan, store = Experiment(contenders, subjects, budgets, options.seeds or size["seeds"]), Store(folder)
    bar = progress_bar("cells")
    cells = run(Bench(model, plan, store), options.workers, load,
                lambda done, total, what: (bar(done, total), print(f"{done}/{total} {what}", flush=True)))
    print(write(plan, store, cells, about(options, plan, model)))


def held_out(options: argparse.Namespace, size: Mapping[str, int], pixels: int) -> dict:
    """Subjects of the pocket world that the model never saw, ``size`` of each kind unless the options say how
    many.

    Raises ESCDiffError when there are not as many.
    """
    from ..bench.protocol import Subject, appearance_references, shape_references

    found, known = {}, {
        "shape": (options.shapes, shape_references),
        "appearance": (options.appearances, appearance_references)
    }
    for kind, (count, references) in known.items():
        last = options.skip + (count or size[kind])
        specs = references(last)
        if len(specs) < last:
            raise ESCDiffError(
                f"there are {len(specs)} held-out {kind}s, {last} were asked for; lower --skip or --{kind}s"
            )
        found[kind] = [Subject.of_spec(kind, spec, pixels) for spec in specs[options.skip:]]
    return found


def own_subjects(folder: Path, native_size: int) -> dict:
    """Subjects from ``shape_*.png`` and ``appearance_*.png`` in ``folder``. Raises ESCDiffError when one kind
    is missing."""
    from ..bench.protocol import Subject

    found = {}
    for kind in ("shape", "appearance"):
        paths = [p for p in sorted(folder.glob(f"{kind}_*.png")) if not p.name.endswith(".mask.png")]
        if not paths:
            raise ESCDiffError(
                f"{folder} holds no {kind}_*.png; needed: at least one picture of each kind, "
                "shape_*.png and appearance_*.png"
            )
        masks = [p.with_suffix(".mask.png") for p in paths]
        found[kind] = [
            Subject.of_picture(p, m if m.exists() else "auto", native_size)
            for p, m in zip(paths, masks, strict=True)
        ]
    return found


def about(options: argparse.Namespace, plan, model) -> dict:
    """What stands above the table."""
    import torch

    from ..bench.contenders import TITLES
    from ..bench.protocol import PICTURES

    names = {kind: ", ".join(s.name for s in group) for kind, group in plan.subjects.items()}
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else \
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    return {
        "title": TITLES[options.table], "command": "python -m escdiff_core " + shlex.join(sys.argv[1:]),
        "date": datetime.date.today().isoformat(), "machine": device, "notes": [
            f"Shapes: {names['shape']}. Appearances: {names['appearance']}. {plan.seeds} seed(s), "
            f"{PICTURES} pictures a cell. Only learning counts as time: seconds alone on the machine, "
            "turned into steps by each one's measured speed. S, A, P and H run from 0, the floor, to 1, "
            "the reference itself drawn again; leak is what came along of the other attribute, beside "
            "what the plain model has of it, which knows nothing of the reference."
        ], "scales": {
            kind: {f"{n} {s.name}": vars(s.judge.scale)
                   for n, s in enumerate(group, 1)}
            for kind, group in plan.subjects.items()
        },
    }
