"""What a benchmark measures, in which order, and where the figures are kept."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path

from .contenders import PLAIN, Contender
from .protocol import Subject

CELLS = "cells.jsonl"
FEW = 9                # pairs that are mixed without a choice
# (contender, "rate", kind), (contender, kind, number, seed) or (contender, "mix", shape, appearance, seed,
# budget)
Key = tuple


@dataclass(frozen=True)
class Experiment:
    """Every contender on every subject of both kinds, after ``budgets`` seconds of learning, and ``pairs`` of
    subjects mixed."""

    contenders: Sequence[Contender]
    subjects: Mapping[str, Sequence[Subject]]      # shape, appearance
    budgets: Sequence[float]
    seeds: int = 1

    def everyone(self) -> tuple[Contender, ...]:
        """The contenders and, last, the plain model."""
        return (*self.contenders, PLAIN)

    def budgets_of(self, contender: Contender) -> Sequence[float]:
        """The learning budgets of ``contender``; 0 alone for one that learns nothing."""
        return self.budgets if contender.learns() else (0.0,)

    @cached_property
    def sources(self) -> Mapping[tuple[str, str], str]:
        """(contender, kind): who learns it; of several that learn it in the same way the first, itself if it
        is shown."""
        return self._firsts(lambda c, kind: c.way(kind))

    @cached_property
    def paces(self) -> Mapping[tuple[str, str], str]:
        """(contender, kind): whose speed counts; another rate of learning takes no other time."""
        return self._firsts(lambda c, kind: replace(c, rates={}).way(kind))

    def _firsts(self, way: Callable[[Contender, str], tuple]) -> Mapping[tuple[str, str], str]:
        found, firsts = {}, {}
        for c in self.everyone():
            for kind in self.subjects:
                found[c.name, kind] = (
                    firsts.setdefault((kind, *way(c, kind)), c.name) if c.learns(kind) else c.name
                )
        return found

    def pairs(self) -> list[tuple[int, int]]:
        """Which shape is mixed with which appearance: all of a few; of many each with its own number and its
        neighbour's.

        Neighbours are two and two, of an odd number the last three, so that the first two of each kind are a
        table of their own.
        """
        shapes, appearances = (len(self.subjects[kind]) for kind in ("shape", "appearance"))
        if shapes * appearances <= FEW:
            return list(product(range(shapes), range(appearances)))
        count = max(shapes, appearances)
        last = count - 3 if count % 2 else count
        beside = [i ^ 1 if i < last else last + (i - last + 1) % 3 for i in range(count)]
        return list(dict.fromkeys(
            (i % shapes, j % appearances) for i in range(count) for j in (i, beside[i])))

    def stages(self) -> list[list[Key]]:
        """All keys, in lists whose order matters: rates, then for each number of a subject what is learned
        and what is mixed.

        A run that stops early has whole references, not all of some contenders.
        """
        everyone, seeds = self.everyone(), range(self.seeds)
        stages = [
            list(
                dict.fromkeys((self.paces[c.name, kind], "rate", kind)
                              for c in everyone
                              for kind in self.subjects
                              if c.learns(kind)))
        ]
        for n in range(max(map(len, self.subjects.values()))):
            stages.append(
                list(
                    dict.fromkeys((self.sources[c.name, kind], kind, n, seed)
                                  for seed in seeds
                                  for c in everyone
                                  for kind, group in self.subjects.items()
                                  if n < len(group))))
            stages.append([(c.name, "mix", *pair, seed, budget) for seed in seeds for pair in self.pairs()
                           if max(pair) == n for c in everyone if c.mixes() for budget in self.budgets_of(c)])
        return stages


class Store:
    """Measured cells in a file of JSON lines; the ``identity`` of each keeps old figures from being taken for
    new."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / CELLS
        self.cells: dict[str, dict] = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                cell = json.loads(line)
                self.cells[json.dumps(cell["key"])] = cell
            except (ValueError, KeyError, TypeError):
                continue                      # the last line of a run that was cut off: measured again

    def get(self, key: Key, identity: str) -> dict | None:
        cell = self.cells.get(json.dumps(list(key)))
        return cell if cell is not None and cell["identity"] == identity else None

    def put(self, key: Key, identity: str, cell: dict) -> None:
        cell = {"key": list(key), "identity": identity, **cell}
        self.cells[json.dumps(list(key))] = cell
        with self.path.open("a") as file:
            file.write("\n" + json.dumps(cell) + "\n")      # a line of its own, also behind half of one

    def file(self, *parts: object, suffix: str) -> Path:
        """Where a cell keeps a picture or an attribute."""
        folder = self.folder / "files"
        folder.mkdir(exist_ok=True)
        return folder / ("-".join("".join(c if c.isalnum() else "_" for c in str(p)) for p in parts) + suffix)
