"""``mix``: pictures with a shape, an appearance, both or neither."""

import argparse
import json
import time
from pathlib import Path

from ..choices import MIDDLES, OVERLAPS, USUAL_GUIDANCE
from ..errors import ESCDiffError
from ..pictures import save_picture, save_report
from ..worlds.pocket.config import GUIDANCE
from .common import add_model, add_seed, check_seed, output_folder, progress_bar, within


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", type=Path, metavar="FILE")
    parser.add_argument("--appearance", type=Path, metavar="FILE")
    parser.add_argument("--prompt", required=True, metavar="TEXT",
                        help="use the attributes' tokens in it, by default *m and *a")
    parser.add_argument("--negative", default="", metavar="TEXT")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    for kind in ("shape", "appearance"):
        parser.add_argument(
            f"--{kind}-strength", type=float, default=1.0, metavar="X", help="1 as learned, 0 off"
        )
        parser.add_argument(
            f"--{kind}-start", type=float, default=0.0, metavar="X", help="of the schedule, 0 to 1"
        )
        parser.add_argument(
            f"--{kind}-end", type=float, default=1.0, metavar="X", help="of the schedule, 0 to 1"
        )
    parser.add_argument(
        "--style", type=Path, metavar="IMG",
        help="a picture whose look is taken over without learning (shared self-attention, StyleAligned)")
    parser.add_argument(
        "--from", dest="start", type=Path, metavar="IMG", help="a picture to draw over (image-to-image)"
    )
    parser.add_argument("--denoise", type=float, default=0.7, metavar="X",
                        help="how much of --from is drawn anew: above 0, up to 1; default 0.7")
    parser.add_argument("--middle", default="shape", choices=MIDDLES, help="owner of the middle block")
    parser.add_argument(
        "--overlap", default="divide", choices=OVERLAPS,
        help="where both changed the same weights: divide them between the two (default), or add both "
        "changes")
    add_model(parser)
    parser.add_argument("--count", type=int, default=4, metavar="N", help="pictures; default 4")
    add_seed(parser)
    parser.add_argument("--sampling-steps", type=int, default=30, metavar="N", help="default 30")
    parser.add_argument("--guidance", type=float, metavar="G",
                        help=f"default: {GUIDANCE:g} with the pocket model, {USUAL_GUIDANCE:g} with others")


def run(options: argparse.Namespace) -> None:
    from ..attribute import Attribute
    from ..families.load import load_model
    from ..mixing.mix import Mix
    from ..mixing.plan import Use
    from ..model.text import split_placeholders
    from ..reference import load_reference

    within("--count", options.count, 1, 10_000)
    within("--guidance", options.guidance or 0, 0, 100)
    check_seed(options.seed)
    uses = {}
    for kind in ("shape", "appearance"):
        path = getattr(options, kind)
        if path is None:
            continue
        attribute = Attribute.load(path)
        if attribute.kind != kind:
            raise ESCDiffError(f"{path} holds {attribute.kind}, not {kind}; give it as --{attribute.kind}")
        uses[kind] = Use(
            attribute, *(getattr(options, f"{kind}_{part}") for part in ("strength", "start", "end"))
        )
    model = load_model(options.model, options.device)
    guidance = model.usual_guidance if options.guidance is None else options.guidance
    style, start_from = (load_reference(path, "none", model.native_size) if path else None
                         for path in (options.style, options.start))
    mix = Mix(model, uses.get("shape"), uses.get("appearance"), options.middle, style, options.overlap)
    folder = output_folder(options.out)
    tokens = [u.attribute.token for u in uses.values()]
    used = {piece for piece, is_token in split_placeholders(options.prompt, tokens) if is_token}
    missing = [t for t in tokens if t not in used]
    start = time.monotonic()
    size = next((p.image.shape[:2] for p in (style, start_from) if p), None)
    images = mix.draw(options.prompt, options.negative, options.count, options.sampling_steps, guidance,
                      options.seed, size, progress_bar("drawing"), start_from.image if start_from else None,
                      options.denoise if start_from else 1.0)
    seconds = time.monotonic() - start
    for number, image in enumerate(images):
        save_picture(image, folder / f"{number:03d}.png")
    for number in range(len(images), _count_of(folder / "report.json")):
        (folder / f"{number:03d}.png").unlink(missing_ok=True)       # of a larger mix before this one
    report = {
        "prompt": options.prompt,
        "negative": options.negative,
        "seed": options.seed,
        "count": options.count,
        "sampling_steps": options.sampling_steps,
        "guidance": guidance,
        "model": str(options.model),
        "middle": options.middle,
        "overlap": options.overlap,
        "style": str(options.style or ""),
        "from": str(options.start or ""),
        "denoise": options.denoise if start_from else 1.0,
        "seconds": round(seconds, 2),
        "attributes": {
            k: {
                "file": str(getattr(options, k)),
                "token": u.attribute.token,
                "strength": u.strength,
                "start": u.start,
                "end": u.end,
                "recipe": u.attribute.recipe,
            }
            for k, u in uses.items()
        },
        "warnings": [f"the prompt does not use {t}" for t in missing],
    }
    save_report(report, folder / "report.json")
    for warning in report["warnings"]:
        print(f"note: {warning}")
    print(f"{len(images)} pictures in {folder}, {seconds:.1f} s")


def _count_of(report: Path) -> int:
    """How many pictures an earlier mix has left in the folder of its ``report``; 0 if there was none."""
    try:
        return int(json.loads(report.read_text("utf-8"))["count"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
