"""What learning on a full-size model takes of memory and time: a family's UNet, autoencoder and text towers
with random weights.

    python benchmarks/full_size.py --family sdxl --size 256 --steps 2 --out benchmarks/full_size_sdxl.json

Random weights cost what trained ones cost. On a CPU the figures say that it works and what it holds, not how
fast a card is.
"""

import argparse
import json
import platform
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from escdiff_core.families import FAMILIES
from escdiff_core.families.load import build_modules, model_from_tensors
from escdiff_core.families.recognise import configured
from escdiff_core.learning.learn import learn
from escdiff_core.learning.recipes import find_recipe
from escdiff_core.mixing.mix import Mix
from escdiff_core.mixing.plan import Use
from escdiff_core.model.diffusion import DiffusionModel, resolve_device
from escdiff_core.model.names import to_canonical, unet_map, vae_map
from escdiff_core.reference import Reference

DTYPE = torch.bfloat16


def random_model(family: str, size: int, device: torch.device, unet: Mapping = MappingProxyType({})
                 ) -> DiffusionModel:
    """A full-size model of ``family``, which learns and draws at ``size`` pixels, or one whose UNet differs
    by ``unet``; weights are small where they add up."""
    row = FAMILIES[family]
    config = replace(configured(row, unet, {}, {tower.name: {} for tower in row.towers}), native_size=size)
    unet, vae, texts = build_modules(config)
    generator = torch.Generator().manual_seed(0)
    for module in (unet, vae, *texts.values()):
        module.to(DTYPE).to_empty(device="cpu")
        for name, tensor in module.state_dict().items():
            if tensor.ndim > 1 and tensor.is_floating_point():
                tensor.normal_(std=tensor[0].numel() ** -0.5, generator=generator)
            elif tensor.is_floating_point():
                tensor.fill_(float(name.endswith("weight")))
            else:
                tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape))
    parts = (to_canonical(m.state_dict(), names(m.config)) for m, names in ((unet, unet_map), (vae, vae_map)))
    return model_from_tensors(*parts, {n: m.state_dict() for n, m in texts.items()}, config, device, DTYPE)


def reference(size: int) -> Reference:
    """A picture of noise with a square subject."""
    picture = np.random.default_rng(0).random((size, size, 3)).astype(np.float32)
    mask = np.zeros((size, size), np.float32)
    mask[size // 4:-size // 4, size // 4:-size // 4] = 1
    return Reference(picture, mask)


def model_bytes(model: DiffusionModel) -> int:
    """What the model itself takes."""
    modules = (model.unet, model.vae, *(tower.encoder for tower in model.towers))
    return sum(p.numel() * p.element_size() for m in modules for p in m.parameters())


def peak(device: torch.device) -> float:
    """GiB that were held at once: of the device, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", default="sdxl", choices=FAMILIES)
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device, times, began = resolve_device(options.device), {}, time.monotonic()

    def lap(what: str) -> None:
        nonlocal began
        times[what], began = round(time.monotonic() - began, 1), time.monotonic()
        print(f"{what}: {times[what]} s, up to {peak(device):.1f} GiB", flush=True)

    model = random_model(options.family, options.size, device)
    lap("make the model")
    uses, learned = {}, {}
    for kind, name in FAMILIES[options.family].recipes.items():
        recipe = find_recipe(name, steps=options.steps, batch_size=options.batch_size, views=options.views)
        made, report = learn(model, [reference(options.size)], recipe, checkpointing=True)
        lap(f"learn a {kind}")
        uses[kind] = Use(made)
        learned[kind] = {
            "recipe": name,
            "seconds_a_step": round(report.seconds / max(options.steps, 1), 2),
            "trained_parameters": report.trained_parameters,
            "megabytes": made.describe()["megabytes"],
        }
    Mix(model, **uses).draw("a photo of a *m with *a appearance", steps=2)
    lap("draw a mix, 2 steps")
    figures = {
        "family": options.family, "size": options.size, "steps": options.steps,
        "batch_size": options.batch_size, "unet_parameters": sum(p.numel() for p in model.unet.parameters()),
        "seconds": times, "learned": learned, "peak_gib": round(peak(device), 1), "device": str(device),
        "threads": torch.get_num_threads(), "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")
    }
    print(json.dumps(figures, indent=1))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
