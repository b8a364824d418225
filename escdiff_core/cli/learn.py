"""``learn``: one attribute from one reference."""

import argparse
import logging
from pathlib import Path

from ..errors import ESCDiffError
from .common import add_model, add_seed, check_seed, output_file, progress_bar

log = logging.getLogger(__name__)


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", required=True, choices=["shape", "appearance"])
    parser.add_argument("--reference", required=True, nargs="+", type=Path, metavar="IMG",
                        help="one picture, or several of the same thing")
    parser.add_argument("--mask", default=["auto"], nargs="+", metavar="IMG|FILE.onnx|auto|none",
                        help="one for each picture, white = subject; or for all: auto, which finds it on a "
                             "plain background, none, or a background-removal network in an ONNX file")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.safetensors")
    add_model(parser)
    parser.add_argument("--recipe", metavar="NAME", help="a row of the recipe table; default: the kind's own")
    parser.add_argument("--preset", metavar="NAME", help="which blocks train; default: the recipe's")
    parser.add_argument(
        "--token", metavar="NAME", help="placeholder in prompts; default *m for shape, *a for appearance"
    )
    parser.add_argument("--class-word", default="", metavar="WORD", help="what the subject is: vase, cat")
    parser.add_argument(
        "--describe",
        default="",
        metavar="TEXT",
        help="the rest of the picture: 'on a yellow table'; for recipes that learn from the picture as it is",
    )
    parser.add_argument("--steps", type=int, metavar="N", help="default: the recipe's own")
    add_seed(parser)
    parser.add_argument(
        "--encoder", default="auto", metavar="auto|none|PATH",
        help="OpenCLIP ViT-B-32 weights; auto: the pocket's own tower with the pocket model, else none")
    parser.add_argument("--filter", type=Path, metavar="FILE", help="a filter from train-filters")
    parser.add_argument("--batch-size", type=int, metavar="N", help="draws per step; default: the recipe's")
    parser.add_argument(
        "--checkpointing", action="store_true", help="less memory, more time, the same result"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on where a run of these settings was cut short"
    )


def run(options: argparse.Namespace) -> None:
    from ..families import usual_recipes
    from ..families.load import load_model
    from ..learning.encoders import choose_encoder
    from ..learning.learn import Snapshots, learn
    from ..learning.recipes import DEFAULTS, find_recipe
    from ..learning.snapshots import drop_state, was_cut_short
    from ..reference import load_reference
    from ..reference.background_removal import check_network, close_network, is_network

    check_seed(options.seed)
    snapshots = options.out.with_suffix(".snapshots")
    if was_cut_short(snapshots) and not options.resume:
        raise ESCDiffError(
            f"{snapshots} holds a run that was cut short; add --resume to go on with it, delete the "
            "folder, or give another --out"
        )
    for_all = options.mask in (["auto"], ["none"]) or (len(options.mask) == 1 and is_network(options.mask[0]))
    masks = options.mask * len(options.reference) if for_all else options.mask
    if len(masks) != len(options.reference):
        raise ESCDiffError(
            f"{len(masks)} masks were given for {len(options.reference)} pictures; give one for each"
        )
    changes = {"preset": options.preset, "steps": options.steps, "batch_size": options.batch_size}
    # what is wrong with these need not wait for the model
    find_recipe(options.recipe or DEFAULTS[options.kind], options.kind, **changes)
    output_file(options.out)
    for mask in filter(is_network, masks):
        check_network(mask)
    model = load_model(options.model, options.device)
    recipe = find_recipe(
        options.recipe or usual_recipes(model.family, model.source)[options.kind], options.kind, **changes
    )
    references = [
        load_reference(path, mask, model.native_size)
        for path, mask in zip(options.reference, masks, strict=True)
    ]
    close_network()
    for path, reference in zip(options.reference, references, strict=True):
        if reference.note:
            log.info("%s: %s", path, reference.note)
    bar = progress_bar(f"learning {options.kind}")
    attribute, report = learn(model, references, recipe, options.seed, filters=options.filter,
                              encoder=choose_encoder(options.encoder, model), describe=options.describe,
                              class_word=options.class_word, token=options.token,
                              checkpointing=options.checkpointing, preparing=progress_bar("preparing views"),
                              on_step=lambda p: bar(p.step, p.steps),
                              snapshots=Snapshots(snapshots, resume=options.resume))
    attribute.save(options.out)
    drop_state(snapshots)                  # not before: what cannot be written can be gone on from
    earlier = f"; earlier steps in {snapshots}" if snapshots.exists() else ""
    print(
        f"{options.out}: {options.kind} as {attribute.token}, {attribute.steps} steps in "
        f"{report.seconds:.1f} s ({report.steps_per_second:.1f}/s), "
        f"{options.out.stat().st_size / 1e6:.1f} MB{earlier}"
    )
