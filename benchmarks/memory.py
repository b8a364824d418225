"""What a whole learning on a full-size model takes of a card, counted: ``python benchmarks/memory.py``.

There is no card: it is pretended (tests/pretend_card.py), with tensors that have sizes and no values. So
every tensor that a learning makes is counted, from the views that are encoded to the attribute that is kept,
and a card that is too small runs out of memory as a real one does. Weights are in bf16, norms compute in
fp32. What kernels take for themselves, what the allocator wastes and the CUDA context (0.5 to 1 GiB) come on
top. Writes ``memory.md``.
"""

import argparse
import datetime
import gc
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import pretend_card
from full_size import DTYPE, reference
from pretend_card import CARD, Allocator, OnCard, card

from escdiff_core.errors import ESCDiffError
from escdiff_core.families import FAMILIES
from escdiff_core.families.load import build_modules, model_from_tensors
from escdiff_core.families.recognise import configured
from escdiff_core.learning.learn import learn
from escdiff_core.learning.recipes import find_recipe
from escdiff_core.model.diffusion import DiffusionModel
from escdiff_core.model.names import to_canonical, unet_map, vae_map
from escdiff_core.model.sample import Drawing

GIB = 2**30
# family, pixels, GiB of the card, changes of the recipe
CASES = (("sd15", 512, 6, {}), ("sd15", 512, 4, {}), ("sdxl", 1024, 12, {}),
         ("sdxl", 1024, 8, {"batch_size": 1}))
SHORT = {"views": 2, "steps": 2}        # more of them take no more memory, but for a latent each
STAGES = ("preparing", "steps", "preview", "end")


def weightless(family: str, size: int) -> DiffusionModel:
    """A full-size model of ``family`` on the card, whose weights have no values."""
    row = FAMILIES[family]
    config = replace(configured(row, {}, {}, {tower.name: {} for tower in row.towers}), native_size=size)
    unet, vae, texts = build_modules(config)

    def tensors(module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        return {name: OnCard(torch.empty(t.shape, dtype=dtype, device="meta"))
                for name, t in module.state_dict().items()}

    return model_from_tensors(
        to_canonical(tensors(unet, DTYPE), unet_map(unet.config)),
        to_canonical(tensors(vae, torch.float32), vae_map(vae.config)),
        {name: tensors(text, DTYPE) for name, text in texts.items()}, config, CARD, DTYPE, base="0" * 64)


@contextmanager
def norms_in_fp32() -> Iterator[None]:
    """While open, norms under autocast compute in fp32, as on a GPU and not on a CPU."""
    with ExitStack() as stack:
        for name in ("group_norm", "layer_norm"):
            usual = getattr(F, name)

            def exact(x, how, weight=None, bias=None, eps=1e-5, usual=usual):
                if not torch.is_autocast_enabled("cpu"):
                    return usual(x, how, weight, bias, eps)
                return usual(x.float(), how, *(None if t is None else t.float() for t in (weight, bias)), eps)

            stack.enter_context(patch.object(F, name, exact))
        yield


def measure(model: DiffusionModel, memory: Allocator, name: str, size: int, changes: dict) -> tuple:
    """Learn on ``model``, with a preview after the last step; returns the run's report and the bytes that
    were taken at most in each of STAGES."""
    recipe, peaks = find_recipe(name, **{**SHORT, **changes}), dict.fromkeys(STAGES, 0)

    def over(stage: str) -> None:
        peaks[stage], memory.most = max(peaks[stage], memory.most), memory.now

    def stepped(progress) -> None:
        over("steps")
        if progress.step == progress.steps:
            progress.draw(f"a photo of {recipe.token}", Drawing(steps=2))
            over("preview")

    gc.collect()
    memory.most = memory.now
    with norms_in_fp32():
        _, report = learn(model, [reference(size)], recipe, on_begin=lambda _run: over("preparing"),
                          on_step=stepped)
    over("end")
    return report, peaks


def rows_of(family: str, size: int, within: float, changes: dict) -> list[str]:
    """A row of the table for each kind."""
    pretend_card.PLACE, rows = "meta", []
    with card(within * GIB) as memory:
        model = weightless(family, size)
        own = memory.now
        for name in FAMILIES[family].recipes.values():
            began = time.monotonic()
            try:
                report, peaks = measure(model, memory, name, size, changes)
            except ESCDiffError as error:       # a figure too
                rows.append(f"| {family} | {size} | {within} | {name} | {str(error).partition(';')[0]} |")
                print(rows[-1], flush=True)
                continue
            batch = changes.get("batch_size", find_recipe(name).batch_size)
            taken = [f"{bytes_ / GIB:.2f}" for bytes_ in (own, *peaks.values(), max(peaks.values()))]
            rows.append(" | ".join([
                f"| {family}", str(size), str(within), name, f"{report.rows} of {batch}",
                "yes" if report.checkpointing else "no", *taken]) + " |")
            print(rows[-1], f"{time.monotonic() - began:.0f} s", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", choices=[family for family, *_ in CASES], help="only this one")
    options = parser.parse_args()
    cases = [case for case in CASES if options.family in (None, case[0])]
    with get_context("spawn").Pool(min(os.cpu_count() or 1, len(cases))) as pool:
        rows = [row for rows in pool.starmap(rows_of, cases, chunksize=1) for row in rows]
    only = f" --family {options.family}" if options.family else ""
    text = "\n".join([
        "# What a whole learning on a full-size model takes of a card, counted", "",
        f"`python benchmarks/memory.py{only}`, {datetime.date.today().isoformat()}, "
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, no GPU: every tensor is "
        "counted on a pretended card that has no more than the GiB of the third column. GiB at once, with "
        "the model. What kernels take for themselves, the allocator's waste and the CUDA context (0.5 to 1 "
        "GiB) come on top.", "",
        f"| family | pixels | card | recipe | rows at once | checkpointing | model | {' | '.join(STAGES)} | "
        "most |",
        "|" + "---|" * (8 + len(STAGES)), *rows, ""])
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
