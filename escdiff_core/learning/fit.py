"""How much of a batch is computed at once, so that a run fits the memory there is: chosen before its first
step, halved when that was too hopeful.

A step adds up the gradients of its parts, so that it is the same step to rounding, however many there are.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import psutil
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from ..errors import ESCDiffError, is_out_of_memory

if TYPE_CHECKING:
    from .tune import Tuner

log = logging.getLogger(__name__)
SHARE = 0.85            # of the free memory: allocators waste some, and libraries take workspaces
MOMENTS, GRADIENT = 8, 4    # bytes of a trained number: AdamW's two moments, its gradient
ALL = 2.0**50           # bytes that nobody has: whoever can make room makes all he can
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
        allocated = torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - allocated
        # of its whole memory, which a person may have limited; not every torch says so
        share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)(device)
        return min(free, share * torch.cuda.get_device_properties(device).total_memory - allocated)
    return psutil.virtual_memory().available if device.type == "cpu" else None


def choose(tuner: "Tuner", room: Room | None = None) -> None:
    """Settle before its first step what ``tuner`` computes at once, by measuring one and two rows.

    ``room`` hears how many bytes a whole batch needs, may make room for it, and answers how many are free;
    by default nothing is made. What is chosen and what it needs goes to the log and to the run's report.
    """
    device, batch, fit = tuner.model.device, tuner.recipe.batch_size, tuner.fit
    ask, asked = room or (lambda needed: free_bytes(device)), False
    moments = MOMENTS * tuner.report.trained_parameters
    tuner.ready()
    while True:
        peaks = _peaks(tuner, fit)
        if len(peaks) < min(2, batch) and not asked:    # others may hold what is missing
            ask(ALL)
            asked = True
            continue
        if not peaks and fit.checkpointing:
            tuner.settle(replace(fit, rows=1))      # the first step says so in a sentence
            return
        row = max(peaks[-1] - peaks[0], 0) or peaks[0] if peaks else 0
        fixed = max(peaks[0] - row, 0) + moments if peaks else moments
        free = None
        if len(peaks) < min(2, batch):              # it was tried: no more than these
            most = len(peaks)
        else:
            free = ask((fixed + batch * row) / SHARE)
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
    torch.cuda.empty_cache()        # nothing where there is no GPU
    tuner.settle(tuner.fit.less())
    log.warning("out of memory: from step %d on %d of a batch of %d are computed at once%s", tuner.done + 1,
                tuner.fit.rows, tuner.recipe.batch_size,
                ", with checkpointing" if tuner.fit.checkpointing else "")


def no_room(tuner: "Tuner") -> ESCDiffError:
    """What a person is told when nothing is left to shrink, or when it is not the batch that is too large."""
    need, batch = tuner.report.trained_state_bytes / 2**30, tuner.recipe.batch_size
    least = f", even for {tuner.fit.rows} of a batch of {batch} at once" if tuner.fit.less() is None else ""
    return ESCDiffError(
        f"out of memory{least}: the trained weights need {need:.1f} GiB beside the model; take a "
        "recipe that trains less, or close what else uses the memory"
    )


def _peaks(tuner: "Tuner", fit: Fit) -> list[int]:
    """Bytes that a pass of one row takes at most, there and back, beside what is there before it, and one of
    two rows (of a batch of one: one): fewer where there is no memory for them.

    A GPU's allocator is asked. Elsewhere it is what each row keeps for its way back, and the gradients.
    """
    most, on_gpu, peaks = min(2, tuner.recipe.batch_size), tuner.model.device.type == "cuda", []
    for rows in range(1, most + 1):
        tuner.settle(replace(fit, rows=rows))
        try:
            if not on_gpu:
                row, gradients = _counted(tuner), GRADIENT * tuner.report.trained_parameters
                return [gradients + row * n for n in range(1, most + 1)]
            peaks.append(_allocated(tuner))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        finally:
            tuner.optimizer.forget()
    return peaks


def _allocated(tuner: "Tuner") -> int:
    """What the allocator of a GPU hands out at most for the first part of a step and its way back."""
    device, parts = tuner.model.device, tuner.parts()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    next(parts).backward()
    parts.close()
    return torch.cuda.max_memory_allocated(device) - before


def _counted(tuner: "Tuner") -> int:
    """What the first part of a step keeps for its way back."""
    with _kept([tuner.unet, *(tower.encoder for tower in tuner.texts.model.towers)]) as storages:
        next(tuner.parts())
    return sum(kept.size for kept in storages.values())


class Kept(NamedTuple):
    """A storage that autograd would keep. The reference holds its place, so that no later one is taken for
    it."""

    reference: StorageWeakRef
    size: int


@contextmanager
def _kept(modules: Iterable[torch.nn.Module]) -> Iterator[dict[int, Kept]]:
    """While open, notes every storage that autograd keeps, but for the weights of ``modules``, and lets go of
    it: there is no way back."""
    weights = {p.untyped_storage()._cdata for module in modules for p in module.parameters()}
    storages: dict[int, Kept] = {}

    def note(tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights and storage._cdata not in storages:
            storages[storage._cdata] = Kept(StorageWeakRef(storage), storage.nbytes())

    with torch.autograd.graph.saved_tensors_hooks(note, lambda nothing: nothing):
        yield storages
