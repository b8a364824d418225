"""The benchmark's cells: learn one reference with one contender, and mix two that were learned. Each is measured once and kept."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch

from ..attribute import Attribute
from ..method.encoders import POCKET_FILTERS, choose_encoder, choose_filter
from ..method.features import ReferenceEncoder
from ..method.mix import Use
from ..method.tune import Tuner
from ..model.load import DiffusionModel
from ..pictures import save_picture
from . import protocol
from .contenders import Contender
from .protocol import Drawn, Subject

CELLS = "cells.jsonl"
FEW = 9                # pairs that are mixed without a choice
PLAIN = "plain"        # the base model and plain words, without any attribute: the floor


@dataclass(frozen=True)
class Plan:
    """What is measured: every contender on every subject of both kinds, at learning budgets in seconds, and ``pairs`` of them."""

    contenders: Sequence[Contender]
    subjects: Mapping[str, Sequence[Subject]]      # shape, appearance
    budgets: Sequence[float]
    seeds: int = 1

    def pairs(self) -> list[tuple[int, int]]:
        """Which shape is mixed with which appearance: all of a few; of many each with its own number and the next."""
        shapes, appearances = (len(self.subjects[kind]) for kind in ("shape", "appearance"))
        if shapes * appearances <= FEW:
            return list(product(range(shapes), range(appearances)))
        numbers = range(max(shapes, appearances))
        return list(dict.fromkeys((i % shapes, (i + shift) % appearances) for i in numbers for shift in (0, 1)))

    def cells(self) -> list[tuple]:
        """All keys, in an order in which a table is complete for every contender as early as can be."""
        learn, mix = [], []
        for seed in range(self.seeds):
            for i in range(max(map(len, self.subjects.values()))):
                kinds = [kind for kind, group in self.subjects.items() if i < len(group)]
                learn += [(c.name, kind, i, seed) for c in self.contenders for kind in kinds]
            learn += [(PLAIN, kind, i, seed) for kind, group in self.subjects.items() for i in range(len(group))]
            mix += [(PLAIN, "mix", *pair, seed, 0.0) for pair in self.pairs()]
            mix += [(c.name, "mix", *pair, seed, b) for pair, c, b in
                    product(self.pairs(), self.contenders, self.budgets)]
        return learn + mix


class Store:
    """Measured cells in a file of JSON lines; the ``identity`` of each keeps old figures from being taken for new."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / CELLS
        self.cells: dict[str, dict] = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                cell = json.loads(line)
                self.cells[json.dumps(cell["key"])] = cell
            except (ValueError, KeyError, TypeError):
                continue                      # the last line of a run that was cut off: measured again

    def get(self, key: tuple, identity: str) -> dict | None:
        cell = self.cells.get(json.dumps(list(key)))
        return cell if cell is not None and cell["identity"] == identity else None

    def put(self, key: tuple, identity: str, cell: dict) -> None:
        cell = {"key": list(key), "identity": identity, **cell}
        self.cells[json.dumps(list(key))] = cell
        with self.path.open("a") as file:
            file.write("\n" + json.dumps(cell) + "\n")      # a line of its own, also behind half of one

    def file(self, *parts: object, suffix: str) -> Path:
        """Where a cell keeps a picture or an attribute."""
        folder = self.folder / "files"
        folder.mkdir(exist_ok=True)
        return folder / ("-".join("".join(c if c.isalnum() else "_" for c in str(p)) for p in parts) + suffix)


def run(model: DiffusionModel, plan: Plan, store: Store, progress: Callable[[int, int, str], None]) -> list[dict]:
    """Measure what is not in ``store`` yet; returns all cells of ``plan``."""
    keys, by_name, cells = plan.cells(), {c.name: c for c in plan.contenders}, []
    encoder = choose_encoder("auto", model)
    for number, key in enumerate(keys):
        contender = by_name.get(key[0])
        who = identity(model, plan, contender, key)
        if store.get(key, who) is None:
            store.put(key, who, mix(model, plan, contender, key, store) if key[1] == "mix" else
                      learn(model, plan, contender, key, store, encoder))
        cells.append(store.get(key, who))
        progress(number + 1, len(keys), " ".join(map(str, key)))
    return cells


def identity(model: DiffusionModel, plan: Plan, contender: Contender | None, key: tuple) -> str:
    """A hash of what a figure depends on besides its key: model, references, and a contender's recipes, filters and budgets."""
    kinds = [(key[1], key[2])] if key[1] != "mix" else [("shape", key[2]), ("appearance", key[3])]
    subjects = [plan.subjects[kind][i] for kind, i in kinds]
    parts = [model.fingerprint, *((s.reference.hash, s.class_word, s.describe) for s in subjects)]
    if contender is not None:
        shipped = contender.pretrained and POCKET_FILTERS.exists()
        filters = hashlib.sha256(POCKET_FILTERS.read_bytes()).hexdigest() if shipped else ""
        parts += [*(contender.recipe(kind).hash() for kind, _ in kinds), filters, list(plan.budgets), contender.encoder,
                  contender.describe, contender.styled]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def learn(model: DiffusionModel, plan: Plan, contender: Contender | None, key: tuple, store: Store,
          encoder: ReferenceEncoder | None) -> dict:
    """Learn one subject and score what is learned after each budget. Only learning counts as time, not drawing and judging."""
    _, kind, index, seed = key
    subject = plan.subjects[kind][index]
    if contender is None or (contender.styled and kind == "appearance"):     # nothing to learn
        drawn = protocol.DRAW[kind](model, None, subject, seed, **({} if contender is None else {"styled": True}))
        for budget in plan.budgets:
            picture(drawn, store.file(*key, budget, suffix=".png"))
        return {"rows": [{"budget": b, **scores(drawn, kind)} for b in (plan.budgets if contender else (0.0,))]}
    recipe = contender.recipe(kind)
    encoder = encoder if contender.encoder else None
    network = choose_filter(None, recipe, model, encoder) if contender.pretrained else None
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    tuner = Tuner(model, [subject.reference], recipe, seed, subject.describe if contender.describe else "",
                  subject.class_word if contender.describe else "", encoder, network)
    spent, rows = time.perf_counter() - began, []
    for budget in plan.budgets:
        while spent < budget and tuner.done < recipe.steps:
            began = time.perf_counter()
            tuner.step()
            spent += time.perf_counter() - began
        peak = torch.cuda.max_memory_allocated() if model.device.type == "cuda" else None
        attribute, path = tuner.attribute(), store.file(*key, budget, suffix=".safetensors")
        size = attribute.save(path)
        drawn = protocol.DRAW[kind](model, Use(attribute), subject, seed)
        picture(drawn, store.file(*key, budget, suffix=".png"))
        rows.append({"budget": budget, "steps": tuner.done, "seconds": spent, **scores(drawn, kind),
                     "loss": float(np.mean(tuner.report.losses[-20:] or [0])), "megabytes": size / 1e6, "peak_bytes": peak})
    return {"rows": rows, "trained_parameters": tuner.report.trained_parameters,
            "trained_state_bytes": tuner.report.trained_state_bytes}


def scores(drawn: Drawn, kind: str) -> dict[str, float]:
    """How much of its own kind an attribute of ``kind`` brought, how much leaked, and the prompt's share."""
    s = drawn.scores
    return {"own": s.shape if kind == "shape" else s.appearance, "leak": s.leak, "prompt": s.prompt}


def mix(model: DiffusionModel, plan: Plan, contender: Contender | None, key: tuple, store: Store) -> dict:
    """Mix two subjects that a contender has learned, or draw plain words with the base model."""
    name, _, i, j, seed, budget = key
    styled = contender is not None and contender.styled
    uses = [None if contender is None or (styled and kind == "appearance") else
            Use(Attribute.load(store.file(name, kind, number, seed, budget, suffix=".safetensors")))
            for kind, number in (("shape", i), ("appearance", j))]
    drawn = protocol.draw_mix(model, *uses, plan.subjects["shape"][i], plan.subjects["appearance"][j], seed, styled=styled)
    picture(drawn, store.file(*key, suffix=".png"))
    return {k: v for k, v in asdict(drawn.scores).items() if v is not None}


def picture(drawn: Drawn, path: Path) -> None:
    """Keep what was drawn, side by side."""
    save_picture(np.concatenate(list(drawn.images), axis=1), path)
