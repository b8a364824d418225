"""How well the pocket model draws what it is asked for: ``python benchmarks/pocket_model.py``.

512 held-back prompts (known words in combinations that training never saw), checked part by part by the
judge; the autoencoder on unseen pictures; seconds for eight pictures. Writes ``pocket_model.json`` and
``pocket_model.md`` beside itself.
"""

import argparse
import datetime
import json
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from escdiff_core.families.load import load_model
from escdiff_core.metrics.prompt_check import PARTS, check
from escdiff_core.model.autoencoder import image_to_latents, latents_to_images
from escdiff_core.model.sample import Drawing, sample
from escdiff_core.worlds.pocket.captions import full_caption
from escdiff_core.worlds.pocket.config import GUIDANCE
from escdiff_core.worlds.pocket.world import render, reserved_spec

AIMS = {"background": 0.98, "colours": 0.90, "shape": 0.97, "pattern": 0.85}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    model = load_model(options.model)

    specs = [reserved_spec(7, i) for i in range(options.count)]
    images = sample(
        model, [full_caption(s) for s in specs], how=Drawing(options.steps, options.guidance)
    )
    checks = [check(image, spec) for image, spec in zip(images, specs, strict=True)]
    right = {part: float(np.mean([getattr(c, part) for c in checks])) for part in PARTS}
    right["all four"] = float(np.mean([c.passed() for c in checks]))
    drawn = np.stack([render(s).image for s in specs])
    upper = [
        check(image, spec)
        for image, spec in zip(
            latents_to_images(model, image_to_latents(model, drawn[:64])), specs, strict=False
        )
    ]
    ceiling = {part: float(np.mean([getattr(c, part) for c in upper])) for part in PARTS}
    ceiling["all four"] = float(np.mean([c.passed() for c in upper]))

    decoded = np.concatenate([latents_to_images(model, image_to_latents(model, drawn[i:i + 16]))
                              for i in range(0, min(128, options.count), 16)])
    errors = ((decoded - drawn[:len(decoded)]) ** 2).mean((1, 2, 3))
    start = time.monotonic()
    sample(model, [full_caption(s) for s in specs[:8]], how=Drawing(30, options.guidance))
    report = {
        "command": " ".join(["python benchmarks/pocket_model.py",
                             *sys.argv[1:]]), "date": datetime.date.today().isoformat(),
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
        f"{model.device}", "count": options.count, "steps": options.steps, "guidance": options.guidance,
        "right": right, "judge_on_reconstructions": ceiling,
        "vae_psnr_db": float(-10 * np.log10(errors.mean())),
        "seconds_for_8_pictures": time.monotonic() - start
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "pocket_model.json").write_text(json.dumps(report, indent=1) + "\n")
    rows = [f"| {part} | {share:.1%} | {AIMS[part]:.0%} | {ceiling[part]:.1%} |" if part in AIMS else
            f"| {part} | {share:.1%} | | {ceiling[part]:.1%} |" for part, share in right.items()]
    (options.out / "pocket_model.md").write_text("\n".join([
        "# The pocket model, measured", "",
        f"`{report['command']}`, {report['date']}, {report['machine']}; {options.count} held-back "
        f"prompts, {options.steps} steps, guidance {options.guidance:g}.", "",
        "| part of the prompt | right | aim | judge on the autoencoder's reconstructions of exact "
        "drawings |", "|---|---|---|---|", *rows, "",
        f"Autoencoder on unseen pictures: {report['vae_psnr_db']:.1f} dB PSNR (aim 27). Eight "
        f"pictures, 30 steps: {report['seconds_for_8_pictures']:.1f} s (aim 5).", ""
    ]))
    sheet = np.concatenate(
        [np.concatenate(list(images[r : r + 12]), 1) for r in range(0, 96, 12) if r + 12 <= len(images)], 0
    )
    Image.fromarray((sheet * 255).astype(np.uint8)).save(options.out / "pocket_model.jpg", quality=88)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
