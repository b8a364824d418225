"""What learning on a full-size model holds at once, by count: ``python benchmarks/memory.py``.

A model of each family with random weights in bf16, and the family's own recipes. The run is told how much
memory there is beside the model, and settles how much of a batch it computes at once. What a pass keeps for
its way back is counted on the CPU, with a GPU's layers and norms in fp32; the CUDA context, the
allocator's waste and libraries' workspaces (0.5 to 1 GiB) come on top. Writes ``memory.md``.
"""

import argparse
import datetime
import gc
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from full_size import random_model, reference

from escdiff_core.families import FAMILIES
from escdiff_core.learning import tune
from escdiff_core.learning.fit import choose
from escdiff_core.learning.learn import prepare
from escdiff_core.learning.recipes import find_recipe
from escdiff_core.model.diffusion import DiffusionModel

GIB = 2**30
# family, pixels, GiB that are to be enough, changes of the recipe
CASES = (("sd15", 512, 6, {}), ("sdxl", 1024, 12, {}), ("sdxl", 1024, 8, {"batch_size": 1}))


def model_bytes(model: DiffusionModel) -> int:
    """What the model itself takes."""
    modules = (model.unet, model.vae, *(tower.encoder for tower in model.towers))
    return sum(p.numel() * p.element_size() for m in modules for p in m.parameters())


def as_on_a_gpu(unet, towers: Sequence, *_how) -> tuple:
    """In the place of lean.for_training: a GPU trains with the layers as they are."""
    return tuple(towers), None


@contextmanager
def norms_in_fp32() -> Iterator[None]:
    """While open, norms compute in fp32, as autocast has them do on a GPU and not on a CPU."""
    with ExitStack() as stack:
        for name in ("group_norm", "layer_norm"):
            usual = getattr(F, name)

            def exact(x, how, weight=None, bias=None, eps=1e-5, usual=usual):
                return usual(x.float(), how, *(None if t is None else t.float() for t in (weight, bias)), eps)

            stack.enter_context(patch.object(F, name, exact))
        yield


def measure(model: DiffusionModel, size: int, within: float, changes: dict) -> list[str]:
    """A row of the table for each kind."""
    rows, own = [], model_bytes(model)
    for name in FAMILIES[model.family].recipes.values():
        began = time.monotonic()
        recipe = find_recipe(name, **{"views": 1, **changes})
        tuner = prepare(model, [reference(size)], recipe, precision="bf16")
        state = 2 * 4 * tuner.report.trained_parameters         # weights and average are there already
        with norms_in_fp32():
            choose(tuner, lambda needed, taken=own + state: within * GIB - taken)
        run = tuner.report.needed_bytes + state
        rows.append(
            f"| {model.family} | {size} | {name} | {tuner.fit.rows} of {recipe.batch_size} | "
            f"{'yes' if tuner.fit.checkpointing else 'no'} | {own / GIB:.2f} | {run / GIB:.2f} | "
            f"{(own + run) / GIB:.2f} | {within} |"
        )
        print(rows[-1], f"{time.monotonic() - began:.0f} s", flush=True)
        del tuner
        gc.collect()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", choices=[family for family, *_ in CASES], help="only this one")
    options = parser.parse_args()
    tune.for_training = as_on_a_gpu
    rows, made = [], {}
    for family, size, within, changes in CASES:
        if options.family in (None, family):
            if family not in made:
                made = {family: random_model(family, size, torch.device("cpu"))}
            rows += measure(made[family], size, within, changes)
    only = f" --family {options.family}" if options.family else ""
    text = "\n".join([
        "# What learning on a full-size model holds at once, by count", "",
        f"`python benchmarks/memory.py{only}`, {datetime.date.today().isoformat()}, "
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}: random weights in bf16, "
        "GiB. Counted, not measured on a card: what autograd keeps with the layers that a GPU computes with, "
        "gradients, optimiser and average. A CUDA context, the allocator's waste and workspaces (0.5 to 1 "
        "GiB) come on top.", "",
        "| family | pixels | recipe | rows at once | checkpointing | model | run | together | aim |",
        "|---|---|---|---|---|---|---|---|---|", *rows, ""])
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
