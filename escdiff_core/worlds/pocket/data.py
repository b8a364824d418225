"""Pictures of the world, and the words for them, drawn once to disk, so that training does not wait for the
renderer."""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from . import colours, icons, patterns, shapes
from .captions import caption, short_caption
from .photographs import photograph
from .swatches import swatch
from .world import SIZE, render, training_spec

CHUNK = 500           # pictures a worker draws at a time
FREE = 6              # captions of a picture in any form, beside a full one and a short one
TOKENS = 28           # longest caption, with its begin and its end; the rest of CLIP's 77 are padding
FULL, SHORT = 0, 1    # places of a full and of a short caption
# pictures that have no caption, each drawn from a generator
PIECES = {"photographs": photograph, "swatches": swatch}


@dataclass(frozen=True)
class Pictures:
    """``images`` uint8 (n, 128, 128, 3), ``tokens`` int16 (n, 2 + FREE, TOKENS), and ``named`` int16 (n, 6).

    ``named``: places of shape, pattern, three colours (-1 for none) and background in :func:`shape_names`,
    :func:`pattern_names` and ``colours.NAMES``.
    """

    images: np.ndarray
    tokens: np.ndarray
    named: np.ndarray


def shape_names() -> list[str]:
    """All shapes of training, icons included."""
    return [*shapes.KNOWN, *icons.names()]


def pattern_names() -> list[str]:
    """All surfaces of training; the one without a name is the last."""
    return [*patterns.KNOWN, patterns.UNNAMED]


def _draw(seed: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from .train_clip import build_tokenizer

    torch.set_num_threads(1)
    specs = [training_spec(seed, i, icons.names()) for i in range(start, stop)]
    images = (np.stack([render(s).image for s in specs]) * 255 + 0.5).astype(np.uint8)
    rng = np.random.default_rng((seed, start, 5))
    texts = [
        t
        for s in specs
        for t in (caption(s, rng, 1.0), short_caption(s), *(caption(s, rng) for _ in range(FREE)))
    ]
    tokens = build_tokenizer()(
        texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="np"
    ).input_ids
    known, looks, names = shape_names(), pattern_names(), colours.NAMES
    named = [[
        known.index(s.shape),
        looks.index(s.pattern), *([names.index(c) for c in s.colours] + [-1] * 3)[:3],
        names.index(s.background)
    ] for s in specs]
    return images, tokens.reshape(len(specs), 2 + FREE, TOKENS).astype(np.int16), np.asarray(named, np.int16)


def _pieces(kind: str, seed: int, start: int, stop: int) -> tuple[np.ndarray]:
    drawn = np.stack([PIECES[kind](np.random.default_rng((seed, i, 6))) for i in range(start, stop)])
    return ((drawn * 255 + 0.5).astype(np.uint8),)


def _files(
    directory: Path, name: str, draw, count: int, rows: dict[str, tuple], workers: int | None
) -> list[np.ndarray]:
    """Open, or draw in parallel first, one memory map for each of ``rows``: suffix to (shape of a row,
    dtype)."""
    paths = {suffix: directory / f"{name}-{suffix}.npy" for suffix in rows}
    if not all(p.exists() for p in paths.values()):
        directory.mkdir(parents=True, exist_ok=True)
        unfinished = {suffix: p.with_suffix(".tmp.npy") for suffix, p in paths.items()}
        maps = [np.lib.format.open_memmap(unfinished[suffix], "w+", dtype, (count, *shape))
                for suffix, (shape, dtype) in rows.items()]
        starts = range(0, count, CHUNK)
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            drawn = pool.map(draw, starts, [min(s + CHUNK, count) for s in starts])
            for start, parts in zip(starts, drawn, strict=True):
                for target, part in zip(maps, parts, strict=True):
                    target[start:start + len(part)] = part
        for target in maps:
            target.flush()
        for suffix, path in paths.items():
            os.replace(unfinished[suffix], path)
    return [np.load(p, mmap_mode="r") for p in paths.values()]


def picture_file(directory: Path, count: int, seed: int, workers: int | None = None) -> Pictures:
    """Open, or draw first, ``count`` training pictures and their captions, as read-only memory maps."""
    rows = {
        "pictures": ((SIZE, SIZE, 3), np.uint8),
        "tokens": ((2 + FREE, TOKENS), np.int16),
        "named": ((6,), np.int16),
    }
    return Pictures(*_files(directory, f"world-{seed}-{count}", partial(_draw, seed), count, rows, workers))


def piece_file(directory: Path, kind: str, count: int, seed: int, workers: int | None = None) -> np.ndarray:
    """Open, or draw first, ``count`` pictures of a ``kind`` of :data:`PIECES`, uint8 (count, 128, 128, 3)."""
    rows = {"pictures": ((SIZE, SIZE, 3), np.uint8)}
    return _files(directory, f"{kind}-{seed}-{count}", partial(_pieces, kind, seed), count, rows, workers)[0]


def to_tensor(pictures: np.ndarray, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """uint8 (b, h, w, 3) to (b, 3, h, w) in -1 to 1, channels last in memory."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).to(device).permute(0, 3, 1, 2)
    return (x.to(torch.float32) / 127.5 - 1).to(dtype).contiguous(memory_format=torch.channels_last)
