"""Train the pocket model: ``python -m escdiff_core.worlds.pocket.train --stage all --minutes 110``.

The stages write to ``--work`` and can be stopped and called again: a stage resumes where it was, and one that
is done is skipped unless it is given more minutes. ``--stage pack`` puts the parts into the checkpoint that
ships, ``--stage unpack`` takes that checkpoint apart to go on from it where the training state is gone.
``--stage filters`` rounds off the filters that ``train-filters`` has made, as ``pack`` does with the rest.
"""

import argparse
from pathlib import Path

import torch

from ...metrics import train_surface_net
from . import config, pack, train_clip, train_unet, train_vae

# of ``--minutes`` with ``--stage all``
SHARES = {"vae": 0.25, "clip": 0.08, "unet": 0.55, "decoder": 0.08, "reader": 0.04}
STAGES = {
    "vae": train_vae.train, "clip": train_clip.train, "unet": train_unet.train,
    "decoder": train_vae.train_decoder, "reader": train_surface_net.train
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the pocket model.")
    parser.add_argument("--stage", choices=[*STAGES, "pack", "filters", "unpack", "all"], default="all")
    parser.add_argument(
        "--minutes", type=float, default=110.0, help="wall clock for the stage, or for all of them"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--work", type=Path, default=Path("out/pocket"), help="folder for pictures, states and logs"
    )
    parser.add_argument("--pictures", type=int, default=80_000, help="pictures drawn to disk (49 kB each)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    name = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if options.stage == "unpack":
        pack.unpack(options.work)
    for stage in STAGES if options.stage == "all" else [options.stage]:
        if stage in STAGES:
            minutes = options.minutes * (SHARES[stage] if options.stage == "all" else 1)
            STAGES[stage](options.work, minutes, device, options.pictures, options.seed)
    if options.stage in ("pack", "all"):
        pack.pack(options.work)
    if options.stage == "filters":
        pack.round_off(config.FILTERS)


if __name__ == "__main__":
    main()
