"""``train-filters``: pre-train the shape and the appearance filter on a folder of pictures, or on the pocket
world."""

import argparse
from pathlib import Path

from .common import add_model, add_seed, check_seed, output_file, progress_bar, within


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", required=True, metavar="DIR|world",
                        help="a folder of pictures; 'world' draws the pocket's")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.safetensors")
    add_model(parser)
    parser.add_argument("--steps", type=int, default=1000, metavar="N")
    parser.add_argument("--seconds", type=float, metavar="S", help="stop each filter after so long")
    parser.add_argument("--count", type=int, default=3000, metavar="N", help="pictures of the world")
    parser.add_argument("--encoder", default="auto", metavar="auto|none|PATH")
    add_seed(parser)


def run(options: argparse.Namespace) -> None:
    from ..families.load import load_model
    from ..learning.encoders import choose_encoder
    from ..learning.filters import save_filters
    from ..learning.recipes import DEFAULTS, find_recipe
    from ..learning.train_filters import examples_from_folder, look_at, train_filter
    from ..registry import find_world

    within("--steps", options.steps, 1, 10**9)
    within("--count", options.count, 1, 10**6)
    check_seed(options.seed)
    output_file(options.out)
    model = load_model(options.model, options.device)
    encoder = choose_encoder(options.encoder, model)
    examples = (
        find_world("pocket").examples(options.count, options.seed, model.native_size)
        if options.images == "world"
        else examples_from_folder(Path(options.images), model.native_size)
    )
    recipes = {kind: find_recipe(name) for kind, name in DEFAULTS.items()}
    seen = look_at(
        model, examples, recipes["shape"].feature_timestep, encoder, options.seed, progress_bar("pictures")
    )
    filters = {
        kind: train_filter(model, seen, recipe, options.steps, seed=options.seed, seconds=options.seconds,
                           progress=progress_bar(f"{kind} filter"))
        for kind, recipe in recipes.items()
    }
    save_filters(filters, options.out, model.fingerprint, recipes["shape"].filter_scale)
    print(f"{options.out}: filters for {', '.join(filters)}, from {len(examples)} pictures")
