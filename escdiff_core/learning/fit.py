"""How much of a batch is computed at once, so that a run fits the memory there is: chosen before its first
step, halved when that was too hopeful.

A step adds up the gradients of its parts, so that it is the same step to rounding, however many there are.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psutil
import torch

from ..errors import ESCDiffError, is_out_of_memory

if TYPE_CHECKING:
    from .tune import Tuner

log = logging.getLogger(__name__)
SHARE = 0.85            # of the free memory: allocators waste some, and libraries take workspaces
MOMENTS, GRADIENT = 8, 4    # bytes of a trained number: AdamW's two moments, its gradient
# (bytes that a whole batch needs) -> bytes that are free then; None: nobody knows
Room = Callable[[float], float | None]


@dataclass(frozen=True)
class Fit:
    """``rows`` of a batch are computed at once; ``checkpointing`` keeps fewer activations and computes them
    again going back (Chen et al. 2016): the same gradients, less memory, more time."""

    rows: int
    checkpointing: bool = False

    def less(self) -> "Fit | None":
        """What needs less memory, rows first, because they cost less time; None where nothing does."""
        if self.rows > 1:
            return replace(self, rows=-(-self.rows // 2))
        return None if self.checkpointing else replace(self, checkpointing=True)


def free_bytes(device: torch.device) -> float | None:
    """How much memory is free on ``device``; None where nobody can say."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    return psutil.virtual_memory().available if device.type == "cpu" else None


def choose(tuner: "Tuner", room: Room | None = None) -> None:
    """Settle before its first step what ``tuner`` computes at once, by measuring one and two rows.

    ``room`` hears how many bytes a whole batch needs, may make room for it, and answers how many are free;
    by default nothing is made. What is chosen and what it needs goes to the log and to the run's report.
    """
    batch, fit = tuner.recipe.batch_size, tuner.fit
    moments = MOMENTS * tuner.report.trained_parameters
    while True:
        peaks = _peaks(tuner, fit)
        if not peaks and fit.checkpointing:
            tuner.settle(replace(fit, rows=1))      # the first step says so in a sentence
            return
        row = max(peaks[-1] - peaks[0], 0) or peaks[0] if peaks else 0
        fixed = max(peaks[0] - row, 0) + moments if peaks else moments
        free = None
        if len(peaks) < min(2, batch):              # it was tried: no more than these
            most = len(peaks)
        else:
            free = free_bytes(tuner.model.device) if room is None else room(fixed + batch * row)
            most = batch if free is None else int((SHARE * free - fixed) // max(row, 1))
        if most >= 1 or fit.checkpointing:
            break
        fit = replace(fit, checkpointing=True)
    parts = -(-batch // min(max(most, 1), batch))
    tuner.settle(replace(fit, rows=-(-batch // parts)))
    tuner.report.needed_bytes = int(fixed + tuner.fit.rows * row)
    log.info("%d of a batch of %d at once%s: about %.2f GiB beside the model%s", tuner.fit.rows, batch,
             ", with checkpointing" if tuner.fit.checkpointing else "", tuner.report.needed_bytes / 2**30,
             "" if free is None else f", of {free / 2**30:.1f} GiB free")


def shrink(tuner: "Tuner") -> None:
    """Let ``tuner``, whose memory ran out in the midst of a step, compute less at once."""
    tuner.optimizer.forget()
    if tuner.model.device.type == "cuda":
        torch.cuda.empty_cache()
    tuner.settle(tuner.fit.less())
    log.warning("out of memory: from step %d on %d of a batch of %d are computed at once%s", tuner.done + 1,
                tuner.fit.rows, tuner.recipe.batch_size,
                ", with checkpointing" if tuner.fit.checkpointing else "")


def no_room(tuner: "Tuner") -> ESCDiffError:
    """What a person is told when nothing is left to shrink."""
    need = tuner.report.trained_state_bytes / 2**30
    return ESCDiffError(
        f"out of memory, even for {tuner.fit.rows} of a batch of {tuner.recipe.batch_size} at once: the "
        f"trained weights need {need:.1f} GiB beside them; take a -lora recipe, or close what else uses the "
        "memory"
    )


def _peaks(tuner: "Tuner", fit: Fit) -> list[int]:
    """What one row takes, and two (of a batch of one: one): fewer where there is no memory for them."""
    peaks = []
    for rows in (1, 2)[:tuner.recipe.batch_size]:
        tuner.settle(replace(fit, rows=rows))
        try:
            peaks.append(_peak(tuner))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        finally:
            tuner.optimizer.forget()
    return peaks


def _peak(tuner: "Tuner") -> int:
    """Bytes that the first part of a step takes at most, there and back, beside what is there before it.

    A GPU's allocator is asked. Elsewhere it is what the pass keeps for its way back, and the gradients.
    """
    device, parts = tuner.model.device, tuner.parts()
    try:
        if device.type != "cuda":
            with _kept() as storages:
                next(parts)
            return sum(storages.values()) + GRADIENT * tuner.report.trained_parameters
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        next(parts).backward()
        return torch.cuda.max_memory_allocated(device) - before
    finally:
        parts.close()


@contextmanager
def _kept() -> Iterator[dict[int, int]]:
    """While open, counts what autograd keeps: bytes of each storage, those of leaves left out."""
    storages: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_leaf:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield storages
