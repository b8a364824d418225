"""The benchmark's rows as a plot, and its pictures as a sheet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..pictures import draw_sheet
from .contenders import PLAIN
from .plan import Experiment, Store
from .protocol import PICTURES


def plot(rows: Sequence[dict], path: Path) -> None:
    """H, fidelity and leak over seconds of learning and over steps, a line per contender."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {
        "mix: H": "H", "shape: S": "shape_own", "shape: leak": "shape_leak",
        "appearance: A": "appearance_own", "appearance: leak": "appearance_leak"
    }
    figure, both = pyplot.subplots(2, len(panels), figsize=(4.2 * len(panels), 8), sharex="row")
    names = list(dict.fromkeys(r["contender"] for r in rows if r["contender"] != PLAIN.name))
    for over, axes in zip(("seconds", "steps"), both, strict=True):
        for (title, key), axis in zip(panels.items(), axes, strict=True):
            # of a mix: the shape's
            steps = f"{'appearance' if key.startswith('appearance') else 'shape'}_steps"
            for number, name in enumerate(names):
                twin = next(r["twin_of"] for r in rows if r["contender"] == name)
                own = [r for r in rows if r["contender"] == name and key in r and (key == "H" or not twin)]
                style = {
                    "label": name,
                    "color": pyplot.get_cmap("tab20")((names.index(twin) if twin else number) % 20),
                    "linestyle": "--" if twin else "-",
                    "linewidth": 1.2 if number else 2.5,
                    "zorder": 2 if number else 3,
                }
                x = "budget" if over == "seconds" else steps
                # learns nothing: a level line
                if own and not any(r.get(x) for r in own):
                    axis.axhline(own[0][key], **{**style, "linestyle": ":"})
                else:
                    axis.plot(*zip(*((r[x], r[key]) for r in own if x in r), strict=True),
                              marker="os"[number // 20 % 2], **style)
            axis.set(title=title, xlabel=f"{over} of learning", ylim=(0, 1))
            axis.grid(alpha=0.3)
    handles, labels = both[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=7, fontsize=8)
    figure.tight_layout(rect=(0, 0.02 + 0.02 * -(-len(labels) // 7), 1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def sheet(plan: Experiment, store: Store, path: Path) -> None:
    """At the largest budget: all contenders side by side on the first references, or all that a single one
    learned and mixed.

    Where there is none, because it failed or an earlier run measured it and left no picture in the folder, it
    is grey.
    """
    alone = len(plan.contenders) == 1
    pairs = plan.pairs() if alone else plan.pairs()[:1]
    chosen = {"shape": sorted({i for i, _ in pairs}), "appearance": sorted({j for _, j in pairs})}
    rows = [("References", [(plan.subjects[kind][n].reference.image, f"{kind}: {plan.subjects[kind][n].name}")
                            for kind, numbers in chosen.items() for n in numbers])]
    gone = np.full_like(rows[0][1][0][0], 0.8)
    for contender in plan.contenders:
        cells = [
            ((kind, n), f"{kind}: {plan.subjects[kind][n].name}")
            for kind, numbers in chosen.items()
            for n in numbers
        ]
        cells += [
            (("mix", i, j), f"{plan.subjects['shape'][i].name} + {plan.subjects['appearance'][j].name}")
            for i, j in pairs
            if contender.mixes()
        ]
        at = plan.budgets_of(contender)[-1]
        names = [
            contender.name if key[0] == "mix" else plan.sources[contender.name, key[0]] for key, _ in cells
        ]
        files = [
            (store.file(name, *key, 0, at, suffix=".png"), label)
            for name, (key, label) in zip(names, cells, strict=True)
        ]
        rows.append((contender.name, [
            item for file, label in files
            for item in ([(part, label) for part in _strip(file)] or [(gone, f"{label}: no picture")])
        ]))
    draw_sheet(rows, path, columns=6)


def _strip(path: Path, count: int = 2) -> list[np.ndarray]:
    """The first of the pictures that a cell kept side by side."""
    if not path.exists():
        return []
    return np.array_split(np.asarray(Image.open(path), np.float32) / 255, PICTURES, axis=1)[:count]
