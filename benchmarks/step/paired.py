"""The learning step of two versions, in turn in one run: ``python benchmarks/step/paired.py OLD [NEW]``
(folders of the pack).

Each version is a process of its own, which waits while the other takes a step, on the same checkpoint,
reference and seed. Prints a table row for each recipe: a step's least and median seconds, the ratios, and
both mean losses, which can be compared where both versions draw the same views.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import mean, median

HERE = Path(__file__).resolve().parents[2]
WARM = 3
WORKER = """
import sys, time
root, checkpoint, recipe, threads = sys.argv[1:5]
sys.path[:0] = [root, root + "/benchmarks"]
import torch
torch.set_num_threads(int(threads))
from tuning_speed import reference
from escdiff_core.learning.recipes import find_recipe
from escdiff_core.learning.learn import prepare
from escdiff_core.families.load import load_model
tuner = prepare(load_model(checkpoint, device="cpu"), [reference(128)], find_recipe(recipe))
for _ in sys.stdin:
    start = time.perf_counter()
    loss = tuner.step()
    print(time.perf_counter() - start, loss, flush=True)
"""


def step_of(worker: subprocess.Popen) -> tuple[float, float]:
    """Seconds and loss of the worker's next step."""
    worker.stdin.write("step\n")
    worker.stdin.flush()
    seconds, loss = map(float, worker.stdout.readline().split())
    return seconds, loss


def compare(roots: list[Path], checkpoint: Path, recipe: str, steps: int, threads: int) -> str:
    """A row of the table."""
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, root, checkpoint, recipe,
                          str(threads)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for root in roots
    ]
    seconds, losses = ([], []), ([], [])
    for number in range(WARM + steps):
        for which in (0, 1) if number % 2 else (1, 0):
            taken, loss = step_of(workers[which])
            losses[which].append(loss)
            if number >= WARM:
                seconds[which].append(taken)
    for worker in workers:
        worker.stdin.close()
        worker.wait()
    (old, new), pairs = seconds, median(b / a for a, b in zip(*seconds, strict=True))
    return (
        f"| {recipe} | {threads} | {min(old):.3f} / {median(old):.3f} | {min(new):.3f} / "
        f"{median(new):.3f} | {min(new) / min(old):.2f} | {pairs:.2f} | {mean(losses[0]):.4f} | "
        f"{mean(losses[1]):.4f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path, nargs="?", default=HERE)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--recipes", nargs="*", default=["escdiff-shape", "escdiff-appearance"])
    options = parser.parse_args()
    print(
        "| recipe | threads | old, s (least / median) | new, s | ratio of the least | of the pairs | "
        "old loss | new loss |\n|---|---|---|---|---|---|---|---|"
    )
    # every version can read the old one
    checkpoint = options.old / "escdiff_core/weights/pocket.safetensors"
    for recipe in options.recipes:
        print(
            compare([options.old, options.new], checkpoint, recipe, options.steps, options.threads),
            flush=True,
        )


if __name__ == "__main__":
    main()
