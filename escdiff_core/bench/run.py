"""The benchmark's cells: how fast a contender learns, what it learns of one reference, and mixes. Each is
measured once.

Budgets are seconds of learning alone on the machine. Each contender's speed is measured once, with all
threads, and turned into steps; the learning itself may then run in several workers beside one another. What
cannot be learned or drawn scores 0.
"""

import hashlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import active_children, get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np
import torch

from ..attribute import Attribute
from ..errors import ESCDiffError
from ..learning.encoders import choose_encoder, choose_filter
from ..learning.learn import prepare
from ..learning.start import read_features
from ..learning.tune import Tuner
from ..mixing.plan import Use
from ..model.diffusion import DiffusionModel
from ..pictures import save_picture
from ..registry import worlds
from . import protocol
from .contenders import Contender
from .plan import Experiment, Key, Store
from .protocol import Drawn, Subject

WARM, TIMED = 3, 6         # steps before and while a contender's speed is measured
FAILED = {"own": 0.0, "leak": 0.0, "prompt": 0.0}


@dataclass
class Bench:
    """One process's hands: a model, the plan and the store."""

    model: DiffusionModel
    plan: Experiment
    store: Store
    threads: int | None = None       # with which speeds were measured, where this process has fewer

    def __post_init__(self):
        self.encoder = choose_encoder("auto", self.model)
        self.guidance = self.model.usual_guidance
        self.by_name = {c.name: c for c in self.plan.everyone()}

    def measure(self, key: Key) -> dict:
        """The cell of ``key``."""
        return {"rate": self.rate, "mix": self.mix}.get(key[1], self.learn)(key)

    def identity(self, key: Key) -> str:
        """A hash of what a figure depends on besides its key: model, references, how they are drawn, recipes,
        filters, steps."""
        contender, what = self.by_name[key[0]], key[1]
        kinds = {"shape": key[2], "appearance": key[3]
                 } if what == "mix" else {key[2]: 0} if what == "rate" else {what: key[2]}
        subjects = [self.plan.subjects[kind][i] for kind, i in kinds.items()]
        parts = [
            protocol.VERSION,
            self.model.fingerprint,
            self.guidance,
            *((s.reference.hash, s.class_word, s.describe) for s in subjects),
            sorted((k, how, contender.denoise.get(k, 1)) for k, how in contender.shown.items() if k in kinds),
        ]
        if what == "rate":         # another rate of learning takes no other time
            return _hash([*parts, replace(contender, rates={}).way(key[2]), str(self.model.device),
                          torch.get_num_threads() if self.threads is None else self.threads])
        learned = [kind for kind in kinds if contender.learns(kind)]
        parts += [
            *(contender.way(kind) for kind in learned),
            shipped_filters() if contender.pretrained else "",
        ]
        # what adds is as it always was
        parts += [contender.overlap] if len(learned) > 1 and contender.overlap != "add" else []
        parts += [
            list(self.plan.budgets_of(contender)),
            [self.steps(contender, k, b) for k in learned for b in self.plan.budgets],
        ]
        return _hash(parts)

    def tuner(self, contender: Contender, kind: str, subject: Subject, seed: int) -> Tuner:
        """A run that has not begun."""
        recipe, encoder = contender.recipe(kind), self.encoder if contender.sees != "unet" else None
        network = choose_filter(None, recipe, self.model, encoder) if contender.pretrained else None
        words = (subject.describe, subject.class_word) if contender.describe else ("", "")
        features = None
        if contender.sees == "clip" and recipe.filter_scale:
            features = read_features(self.model, [subject.reference], recipe, encoder, seed)
            features = replace(features, unet=torch.zeros_like(features.unet))
        return prepare(
            self.model, [subject.reference], recipe, seed, *words, encoder, network, features=features
        )

    def rate(self, key: Key) -> dict:
        """Seconds until the first step, and for each."""
        name, _, kind = key
        times = [time.perf_counter()]
        tuner = self.tuner(self.by_name[name], kind, self.plan.subjects[kind][0], 0)
        times.append(time.perf_counter())
        if self.model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.model.device)
        for _ in range(WARM + TIMED):
            tuner.step()
            times.append(time.perf_counter())
        peak = (
            torch.cuda.max_memory_allocated(self.model.device) if self.model.device.type == "cuda" else None
        )
        return {
            "setup": times[1] - times[0],
            "step": (times[-1] - times[1 + WARM]) / TIMED,
            "peak_bytes": peak,
            "trained_parameters": tuner.report.trained_parameters,
            "trained_state_bytes": tuner.report.trained_state_bytes,
        }

    def steps(self, contender: Contender, kind: str, budget: float) -> int:
        """How many steps ``contender`` takes in ``budget`` seconds, by its measured speed."""
        key = (self.plan.paces[contender.name, kind], "rate", kind)
        rate = self.store.get(key, self.identity(key))
        return max(0, min(contender.recipe(kind).steps, int((budget - rate["setup"]) / rate["step"])))

    def learn(self, key: Key) -> dict:
        """Learn one subject and score what is learned after each budget, or what is shown of it without
        learning."""
        name, kind, index, seed = key
        contender, subject = self.by_name[name], self.plan.subjects[kind][index]
        budgets = self.plan.budgets_of(contender)
        if not contender.learns(kind):
            drawn = protocol.DRAW[kind](self.model, None, subject, seed, guidance=self.guidance,
                                        how=contender.shown[kind], denoise=contender.denoise.get(kind, 1))
            for budget in budgets:
                picture(drawn, self.store.file(*key, budget, suffix=".png"))
            return {"rows": [{"budget": b, **scores(drawn, kind)} for b in budgets]}
        tuner, rows = self.tuner(contender, kind, subject, seed), []
        targets = [self.steps(contender, kind, budget) for budget in budgets]
        try:
            for budget, steps in zip(budgets, targets, strict=True):
                while tuner.done < steps:
                    tuner.step()
                attribute, path = tuner.attribute(), self.store.file(*key, budget, suffix=".safetensors")
                size = attribute.save(path)
                drawn = protocol.DRAW[kind](self.model, Use(attribute), subject, seed, guidance=self.guidance)
                picture(drawn, self.store.file(*key, budget, suffix=".png"))
                rows.append(
                    {
                        "budget": budget,
                        "steps": tuner.done,
                        **scores(drawn, kind),
                        "loss": float(np.mean(tuner.report.losses[-20:] or [0])),
                        "megabytes": size / 1e6,
                    }
                )
        # rates that are too high: the weights are no numbers any more
        except ESCDiffError as error:
            for budget in budgets[len(rows):]:
                rows.append({"budget": budget, **FAILED, "failed": str(error)})
                # what another recipe learned
                self.store.file(*key, budget, suffix=".safetensors").unlink(missing_ok=True)
        return {"rows": rows}

    def mix(self, key: Key) -> dict:
        """Mix two subjects that a contender has learned or is shown."""
        name, _, i, j, seed, budget = key
        contender, uses = self.by_name[name], []
        try:
            for kind, number in (("shape", i), ("appearance", j)):
                source = self.plan.sources[name, kind]
                path = self.store.file(source, kind, number, seed, budget, suffix=".safetensors")
                # of an earlier run, whose files are gone
                if contender.learns(kind) and not path.exists():
                    self.learn((source, kind, number, seed))
                uses.append(Use(Attribute.load(path)) if contender.learns(kind) else None)
            drawn = protocol.draw_mix(self.model, *uses, self.plan.subjects["shape"][i],
                                      self.plan.subjects["appearance"][j], seed, guidance=self.guidance,
                                      shown=contender.shown, denoise=contender.denoise,
                                      overlap=contender.overlap)
        except ESCDiffError as error:
            return {"shape": 0.0, "appearance": 0.0, "prompt": 0.0, "failed": str(error)}
        picture(drawn, self.store.file(*key, suffix=".png"))
        return {k: v for k, v in asdict(drawn.scores).items() if v is not None}


def _hash(parts: list) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@cache
def shipped_filters() -> str:
    """A hash of the filters that come with the pack, empty without them."""
    files = [w.filters for w in worlds().values() if w.filters.exists()]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest() if files else ""


def scores(drawn: Drawn, kind: str) -> dict[str, float]:
    """How much of its own kind an attribute of ``kind`` brought, how much leaked, and the prompt's share."""
    s = drawn.scores
    return {"own": s.shape if kind == "shape" else s.appearance, "leak": s.leak, "prompt": s.prompt}


def picture(drawn: Drawn, path: Path) -> None:
    """Keep what was drawn, side by side."""
    save_picture(np.concatenate(list(drawn.images), axis=1), path)


def run(
    bench: Bench, workers: int, load: Callable[[], DiffusionModel], progress: Callable[[int, int, str], None]
) -> list[dict]:
    """Measure what is not in the store yet, speeds alone and the rest in ``workers`` processes; returns all
    cells of the plan.

    ``load`` makes the model in a worker. Raises ESCDiffError when a worker dies.
    """
    store, stages, cells = bench.store, bench.plan.stages(), []
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        pool = None
        for number, stage in enumerate(stages):
            names = {key: bench.identity(key) for key in stage}
            missing = [key for key in stage if store.get(key, names[key]) is None]
            if number and missing and pool is None and workers > 1:
                pool = stack.enter_context(_Workers(workers, load, bench.plan, store.folder, threads))
            done = sum(map(len, stages[:number])) + len(stage) - len(missing)
            measured = (
                pool.measure(missing) if pool and number else ((key, bench.measure(key)) for key in missing)
            )
            for key, cell in measured:
                store.put(key, names[key], cell)
                done += 1
                progress(done, sum(map(len, stages)), " ".join(map(str, key)))
            cells += [store.get(key, names[key]) for key in stage]
    return cells


def _start_method() -> BaseContext:
    """How workers begin: forked from a process that has imported all this once, where there can be one."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


class _Workers:
    """Processes that measure cells; whatever ends the run ends them too."""

    def __init__(
        self, count: int, load: Callable[[], DiffusionModel], plan: Experiment, folder: Path, threads: int
    ):
        self.pool = ProcessPoolExecutor(
            count, _start_method(), _open, (load, plan, folder, threads, max(1, threads // count))
        )

    def __enter__(self) -> "_Workers":
        return self

    def measure(self, keys: list[Key]) -> Iterator[tuple[Key, dict]]:
        """The cells of ``keys`` as they come."""
        futures = {self.pool.submit(_measure, key): key for key in keys}
        try:
            yield from ((futures[future], future.result()) for future in as_completed(futures))
        except BrokenProcessPool as error:
            raise ESCDiffError(
                "a worker died, perhaps for want of memory; go on with --resume and fewer --workers"
            ) from error

    def __exit__(self, kind, *_) -> None:
        if kind is not None:
            for child in active_children():
                child.terminate()
        self.pool.shutdown(cancel_futures=True)


_bench: Bench | None = None         # a worker's own


def _open(load: Callable[[], DiffusionModel], plan: Experiment, folder: Path, threads: int, own: int) -> None:
    global _bench
    signal.signal(signal.SIGINT, signal.SIG_IGN)         # Ctrl-C is the parent's to answer
    torch.set_num_threads(own)
    _bench = Bench(load(), plan, Store(folder), threads)


def _measure(key: Key) -> dict:
    return _bench.measure(key)
