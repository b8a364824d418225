"""What training half a UNet saves, and what mixing costs, as ratios in one run: ``python
benchmarks/tuning_speed.py``.

Random weights: time and memory do not depend on their values. All variants of a model take their steps in
turn, so that whatever else the machine does hits all of them alike; a ratio is the median over rounds.
``--full`` is SD 1.5 at full size (a GPU with 48 GB). Writes ``tuning_speed.json`` and ``tuning_speed.md``.
"""

import argparse
import datetime
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from escdiff_core.attribute import Attribute
from escdiff_core.families import FAMILIES
from escdiff_core.learning.learn import prepare
from escdiff_core.learning.recipes import DEFAULTS, Recipe, find_recipe
from escdiff_core.learning.tune import Tuner
from escdiff_core.mixing.mix import Mix
from escdiff_core.mixing.plan import Use
from escdiff_core.model.diffusion import DiffusionModel, resolve_device
from escdiff_core.model.schedule import NoiseSchedule
from escdiff_core.model.tokenizer import build_tokenizer
from escdiff_core.model.towers import TextTower
from escdiff_core.reference import Reference
from escdiff_core.worlds.pocket import config as pocket
from escdiff_core.worlds.pocket.tokenizer import build_vocabulary

SD15 = FAMILIES["sd15"]
HALF_TEXT = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6, "projection_dim": 384}


@dataclass(frozen=True)
class Size:
    """One architecture: configurations of its parts, the side of its pictures, and the batch that it is timed
    with."""

    unet: dict
    vae: dict
    text_encoder: dict
    pixels: int
    batch_size: int
    tokenizer: dict | None = None      # None: SD 1.x's own words


SIZES = {
    "pocket": Size(pocket.UNET, pocket.VAE, pocket.TEXT_ENCODER, pocket.NATIVE_SIZE, 16, build_vocabulary()),
    "half": Size({**SD15.unet, "block_out_channels": [160, 320, 640, 640], "cross_attention_dim": 384},
                 {**SD15.vae, "block_out_channels": [64, 128, 256, 256]},
                 {**SD15.towers[0].config, **HALF_TEXT}, 256, 4),
    "full": Size(SD15.unet, SD15.vae, SD15.towers[0].config, 512, 8),
}


@dataclass(frozen=True)
class Variant:
    """A way to tune; ``time_aim`` and ``state_aim`` are the largest allowed ratios to whole-UNet tuning."""

    title: str
    recipe: str
    preset: str
    cached: bool = False
    time_aim: float | None = None
    state_aim: float | None = None


VARIANTS = {
    "whole": Variant("whole UNet", "escdiff-appearance-paper", "whole"),
    "decoder": Variant("decoder only", "escdiff-appearance-paper", "paper", False, 0.80, 0.62),
    "cached": Variant(
        "decoder only, cached encoder features", "escdiff-appearance-paper", "paper", True, 0.70, 0.62
    ),
    "encoder": Variant("encoder only", "escdiff-shape-paper", "paper", False, 0.80, 0.35),
}
MIX_AIM = 1.03


def random_model(size: Size, device: torch.device) -> DiffusionModel:
    """A model with random weights on ``device``, as loading one gives it."""
    torch.manual_seed(0)
    parts = (UNet2DConditionModel.from_config(size.unet), AutoencoderKL.from_config(size.vae),
             CLIPTextModel(CLIPTextConfig(**size.text_encoder)))
    unet, vae, text_encoder = (part.to(device).eval().requires_grad_(False) for part in parts)
    towers = (TextTower("clip_l", text_encoder, build_tokenizer(size.tokenizer)),)
    return DiffusionModel(
        unet, vae, towers, NoiseSchedule(), size.pixels, "random weights", device, "sd15", "random"
    )


def reference(pixels: int) -> Reference:
    """A coloured disc on a pale ground, masked."""
    y, x = np.mgrid[:pixels, :pixels] / pixels - 0.5
    mask = (x**2 + y**2 < 0.09).astype(np.float32)
    image = np.where(mask[..., None] > 0, np.float32([0.8, 0.2, 0.1]), np.float32([0.9, 0.9, 0.95]))
    return Reference(image.astype(np.float32), mask)


def timed(device: torch.device, act) -> float:
    """Seconds that ``act()`` takes, on a GPU until it has really finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def state_bytes(tuner: Tuner, gradients: bool = True) -> int:
    """Bytes of what training keeps for what it trains: weights, their average, as many gradients, and the
    optimiser's moments."""
    trained = tuner.optimizer.parameters()
    moments = [v for p in trained for v in tuner.optimizer.adamw.state[p].values()]
    tensors = [*trained, *tuner.optimizer.average, *moments, *(trained if gradients else ())]
    return sum(t.numel() * t.element_size() for t in tensors)


def recipe_of(variant: Variant, batch_size: int) -> Recipe:
    return find_recipe(variant.recipe, preset=variant.preset, cached=variant.cached, batch_size=batch_size)


def measure_tuning(model: DiffusionModel, batch_size: int, rounds: int, say) -> tuple[dict, dict[str, Tuner]]:
    """Time the steps of all variants in turn. Returns figures by variant, and the tuners."""
    picture = [reference(model.native_size)]
    tuners = {name: prepare(model, picture, recipe_of(v, batch_size)) for name, v in VARIANTS.items()}
    cuda, seconds, peaks = model.device.type == "cuda", {name: [] for name in VARIANTS}, {}
    for name, tuner in tuners.items():       # warm: kernels chosen, optimiser state there, pool filled
        for _ in range(2):
            if cuda:
                torch.cuda.reset_peak_memory_stats(model.device)
                held = torch.cuda.memory_allocated(model.device)
            tuner.step()
        # of the second step: what it added to the weights and moments that were there already
        peaks[name] = (
            torch.cuda.max_memory_allocated(model.device) - held + state_bytes(tuner, False) if cuda else None
        )
        say(f"{VARIANTS[name].title}: warm")
    for _ in range(rounds):
        for name, tuner in tuners.items():
            seconds[name].append(timed(model.device, tuner.step))
    tuners["cached"].pool = None             # its next step fills the pool again, now that everything is warm
    filling = timed(model.device, tuners["cached"].step) - median(seconds["cached"])
    steps = tuners["cached"].recipe.steps
    seconds["cached"] = [s + filling / steps for s in seconds["cached"]]
    figures = {}
    for name, variant in VARIANTS.items():
        state = state_bytes(tuners[name])
        figures[name] = {
            "title": variant.title, "seconds_per_step": median(seconds[name]), "time_aim": variant.time_aim,
            "time_ratio": median(s / w for s, w in zip(seconds[name], seconds["whole"], strict=True)),
            "trained_parameters": tuners[name].report.trained_parameters, "state_bytes": state,
            "state_ratio": state / state_bytes(tuners["whole"]), "state_aim": variant.state_aim,
            "peak_bytes": peaks[name],
        }
        say(f"{variant.title}: {1e3 * median(seconds[name]):.0f} ms, ratio {figures[name]['time_ratio']:.2f}")
    pool = len(tuners["cached"].pool[0].prompts)
    figures["cached"] |= {"filling_seconds": filling, "filling_shared_by_steps": steps, "pool": pool}
    return figures, tuners


def default_attributes(model: DiffusionModel) -> list[Attribute]:
    """A shape and an appearance as the default recipes make them, after one step."""
    recipes = [find_recipe(name, steps=1, batch_size=1, views=1) for name in DEFAULTS.values()]
    return [prepare(model, [reference(model.native_size)], recipe).run() for recipe in recipes]


def measure_mixing(
    model: DiffusionModel, attributes: Sequence[Attribute], steps: int, pairs: int, count: int, say
) -> dict:
    """Draw with and without attributes in interleaved pairs; merging the deltas, which happens once, is timed
    apart."""
    mixed = Mix(model, *map(Use, attributes))
    plain = Mix(model)
    ways = {"mixed": (mixed, "a photo of a *a *m on a red background"),
            "plain": (plain, "a photo of a plain object on a red background")}

    def draw(name: str) -> float:
        mix, prompt = ways[name]
        return timed(model.device, lambda: mix.draw(prompt, count=count, steps=steps))

    merging = timed(model.device, lambda: mixed.variant(0.0))
    for name in ways:
        draw(name)
    seconds = {"mixed": [], "plain": []}
    for i in range(pairs):
        for name in ("mixed", "plain") if i % 2 else ("plain", "mixed"):
            seconds[name].append(draw(name))
    ratio = median(m / p for m, p in zip(seconds["mixed"], seconds["plain"], strict=True))
    say(f"mixed against plain sampling: ratio {ratio:.3f}")
    return {
        "ratio": ratio, "aim": MIX_AIM, "merging_seconds": merging, "steps": steps, "count": count,
        "pairs": pairs, **{f"{name}_seconds": median(s)
                           for name, s in seconds.items()}
    }


def machine(device: torch.device) -> str:
    """What it ran on, in words."""
    names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")] if Path("/proc/cpuinfo").exists() else []
    processor = names[0] if names else platform.processor() or platform.machine()
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    return f"{gpu}{processor}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def verdict(value: float, aim: float | None) -> str:
    return f"{value:.2f}" if aim is None else f"{value:.2f} ({'≤' if value <= aim else 'misses'} {aim:.2f})"


def as_markdown(report: dict) -> str:
    """The report as tables; a ratio stands beside its aim."""
    lines = [
        "# What training half a UNet saves",
        "",
        f"`{report['command']}`, {report['date']}, {report['machine']}.",
        "Ratios are to tuning the whole UNet, same batch: medians of interleaved rounds, random weights.",
        "",
    ]
    for name, figures in report["models"].items():
        gpu = any(row["peak_bytes"] for row in figures["tuning"].values())
        lines += [
            f"## {name}: {figures['unet_parameters'] / 1e6:.1f} M parameters, {figures['pixels']} px, "
            f"batch {figures['batch_size']}, {figures['rounds']} rounds",
            "",
            "| trains | ms a step | of whole | state, MB | of whole "
            f"|{' peak of a step, MB |' if gpu else ''}",
            "|---|---|---|---|---|" + ("---|" if gpu else ""),
        ]
        for row in figures["tuning"].values():
            peak = f" {row['peak_bytes'] / 1e6:.0f} |" if gpu else ""
            time_ratio, state_ratio = (
                verdict(row[f"{what}_ratio"], row[f"{what}_aim"]) for what in ("time", "state")
            )
            lines.append(f"| {row['title']} | {1e3 * row['seconds_per_step']:.1f} | {time_ratio} "
                         f"| {row['state_bytes'] / 1e6:.0f} | {state_ratio} |{peak}")
        cached = figures["tuning"]["cached"]
        lines += [
            "", f"Filling the cache ({cached['pool']} draws) takes {cached['filling_seconds']:.2f} s, "
            f"shared by the recipe's {cached['filling_shared_by_steps']} steps and counted above.",
            *(f"Mixed against plain sampling, {title}: {m['ratio']:.3f} (aim ≤ {m['aim']}); "
              f"{m['mixed_seconds']:.2f} s against {m['plain_seconds']:.2f} s for {m['count']} pictures "
              f"of {m['steps']} steps, median of {m['pairs']} interleaved pairs; merging the deltas, "
              f"once: {m['merging_seconds']:.2f} s." for title, m in figures["mixing"].items()), ""
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda")
    parser.add_argument(
        "--full", action="store_true", help="SD 1.5 at full size in place of the half-size one"
    )
    parser.add_argument(
        "--models", nargs="*", choices=list(SIZES), help="default: pocket and half (with --full: full)"
    )
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="steps of each variant")
    parser.add_argument("--pairs", type=int, default=15, metavar="N", help="mixed and plain drawings")
    parser.add_argument("--batch", type=int, metavar="N", help="draws a step; default: the size's own")
    parser.add_argument("--sampling-steps", type=int, default=30, metavar="N")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="DIR")
    options = parser.parse_args()
    device = resolve_device(options.device)
    report = {"command": "python " + " ".join(["benchmarks/tuning_speed.py", *sys.argv[1:]]),
              "date": datetime.date.today().isoformat(), "machine": machine(device), "models": {},
              "variants": {name: asdict(v) for name, v in VARIANTS.items()}}
    for name in options.models or ("pocket", "full" if options.full else "half"):
        size = SIZES[name]
        batch = options.batch or size.batch_size
        model = random_model(size, device)

        def say(text: str, name: str = name) -> None:
            print(f"[{name}] {text}", flush=True)

        tuning, tuners = measure_tuning(model, batch, options.rounds, say)
        published = [tuners[name].attribute() for name in ("encoder", "decoder")]
        mixing = {
            title: measure_mixing(model, attributes, options.sampling_steps, options.pairs, 2, say)
            for title, attributes in (
                ("default recipes", default_attributes(model)),
                ("as published, a prompt for each half", published),
            )
        }
        report["models"][name] = {
            "unet_parameters": sum(p.numel() for p in model.unet.parameters()), "pixels": size.pixels,
            "batch_size": batch, "rounds": options.rounds, "tuning": tuning, "mixing": mixing}
        del model, tuners
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "tuning_speed.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / "tuning_speed.md").write_text(as_markdown(report))
    print(as_markdown(report))


if __name__ == "__main__":
    main()
