"""Pictures of the world drawn once to disk, so that training does not wait for the renderer."""

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

from .world import SIZE, Spec, render, training_spec

CHUNK = 500  # pictures a worker draws at a time


def _draw(seed: int, start: int, stop: int) -> np.ndarray:
    pictures = [render(training_spec(seed, i)).image for i in range(start, stop)]
    return (np.stack(pictures) * 255 + 0.5).astype(np.uint8)


def picture_file(directory: Path, count: int, seed: int, workers: int | None = None) -> np.ndarray:
    """Open, or draw first, ``count`` training pictures as a read-only memory map, uint8 (count, 128, 128, 3)."""
    path = directory / f"pictures-{seed}-{count}.npy"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp.npy")
        pictures = np.lib.format.open_memmap(unfinished, "w+", np.uint8, (count, SIZE, SIZE, 3))
        starts = range(0, count, CHUNK)
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            drawn = pool.map(partial(_draw, seed), starts, [min(s + CHUNK, count) for s in starts])
            for start, chunk in zip(starts, drawn, strict=True):
                pictures[start:start + len(chunk)] = chunk
        pictures.flush()
        os.replace(unfinished, path)
    return np.load(path, mmap_mode="r")


def specs(count: int, seed: int) -> list[Spec]:
    """The specifications behind ``picture_file``, in the same order."""
    return [training_spec(seed, i) for i in range(count)]


def to_tensor(pictures: np.ndarray, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """uint8 (b, h, w, 3) to (b, 3, h, w) in -1 to 1, channels last in memory."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).to(device).permute(0, 3, 1, 2)
    return (x.to(torch.float32) / 127.5 - 1).to(dtype).contiguous(memory_format=torch.channels_last)
