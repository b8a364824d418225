"""Read the header of a safetensors file as plain bytes, and believe none of it until it has been checked.

The layout: 8 bytes little-endian header length, that many bytes of JSON, then the tensors without a gap.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ESCDiffError

LENGTH_BYTES = 8
# bytes; SD 1.x has 686 UNet tensors, whose names and a thumbnail fill a tenth of this
LARGEST_HEADER = 4 << 20
LARGEST_METADATA = 2 << 20   # bytes of all metadata texts together
MOST_DIMENSIONS = 4          # a convolution's weight
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8
}

# What people really drop where an attribute belongs, known by the first bytes.
MAGIC: tuple[tuple[bytes, str], ...] = (
    (
        b"PK\x03\x04",
        "a zip archive, as .ckpt, .pt and .bin pickles are; a pickle can run any program when opened",
    ),
    (b"\x80\x02", "a pickle (.ckpt, .pt), which can run any program when opened"),
    (b"\x80\x03", "a pickle (.ckpt, .pt), which can run any program when opened"),
    (b"\x80\x04", "a pickle (.ckpt, .pt), which can run any program when opened"),
    (b"\x80\x05", "a pickle (.ckpt, .pt), which can run any program when opened"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GGUF", "a GGUF model"),
    (b"version https://git-lfs", "a Git LFS pointer instead of the file itself"),
    (b"<!DOCTYPE", "a web page; the download went wrong"),
    (b"<html", "a web page; the download went wrong"),
)
LONGEST_MAGIC = max(len(magic) for magic, _ in MAGIC)


@dataclass(frozen=True)
class TensorEntry:
    """What the header says of one tensor: ``dtype`` is a key of :data:`ITEM_BYTES`, ``start`` and ``end`` in
    bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """A checked header: tensor entries by name, and the metadata texts."""

    entries: dict[str, TensorEntry]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read and check the header of ``path``; no tensor is read.

    Raises ESCDiffError with one sentence: missing, not a file, empty, a pickle or another kind, truncated, a
    header that lies about lengths, is not JSON, is too large, or describes tensors that overlap or leave
    gaps.
    """
    if not path.exists():
        raise ESCDiffError(f"attribute file {path} does not exist; ‹an attribute›")
    if not path.is_file():
        raise ESCDiffError(f"{path} is not a file; ‹an attribute›")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(max(LENGTH_BYTES + 1, LONGEST_MAGIC))
            length = struct.unpack("<Q", first[:LENGTH_BYTES])[0] if len(first) > LENGTH_BYTES else 0
            # A length of 1408 starts with the bytes of a pickle, so the magic only speaks where the header is
            # absurd.
            if not 2 <= length <= size - LENGTH_BYTES or first[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
                raise ESCDiffError(_not_safetensors(path, first, size, length))
            if length > LARGEST_HEADER:
                raise ESCDiffError(
                    f"{path}: the header is {length} bytes, allowed are {LARGEST_HEADER}; this is not "
                    "an attribute file, or a damaged one"
                )
            file.seek(LENGTH_BYTES)
            text = file.read(length)
    except OSError as error:
        why = error.strerror or error
        raise ESCDiffError(f"{path} cannot be read ({why}); check the path and its rights") from error
    raw = _parse(text, path)
    metadata = raw.pop("__metadata__", {})
    _check_metadata(metadata, path)
    entries = {name: _entry(name, value, path) for name, value in raw.items()}
    _check_layout(entries, size - LENGTH_BYTES - length, path)
    return Header(entries, metadata)


def _not_safetensors(path: Path, first: bytes, size: int, length: int) -> str:
    if not size:
        return f"{path} is empty (0 bytes); learn or download the attribute again"
    kind = next((kind for magic, kind in MAGIC if first.startswith(magic)), None)
    if kind is not None:
        return f"{path} is {kind}; ‹an attribute›"
    if first[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{":
        return (
            f"{path} is truncated or damaged: its header claims {length} bytes, the file has {size}; "
            "copy or learn it again"
        )
    return f"{path} is not a safetensors file; ‹an attribute›"


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:   # JSONDecodeError and UnicodeDecodeError are ValueErrors
        why = str(error)[:80]
        raise ESCDiffError(f"{path}: the header is not readable JSON ({why}); the file is damaged") from error
    if not isinstance(raw, dict):
        raise ESCDiffError(f"{path}: the header is not a JSON object; the file is damaged")
    return raw


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _check_metadata(metadata: Any, path: Path) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ESCDiffError(f"{path}: the metadata is not a table of texts; the file is damaged")
    size = sum(len(k) + len(v) for k, v in metadata.items())
    if size > LARGEST_METADATA:
        raise ESCDiffError(
            f"{path}: the metadata is {size} bytes, allowed are {LARGEST_METADATA}; this is not an "
            "attribute file, or a damaged one"
        )


def _entry(name: str, value: Any, path: Path) -> TensorEntry:
    shown = repr(name[:80])
    if not isinstance(value, Mapping) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ESCDiffError(
            f"{path}: the header entry of tensor {shown} is not dtype, shape and offsets; the file is damaged"
        )
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ESCDiffError(
            f"{path}: tensor {shown} has dtype {str(dtype)[:20]!r}; allowed: {', '.join(ITEM_BYTES)}"
        )
    if (
        not _whole_numbers(shape)
        or not _whole_numbers(offsets)
        or len(offsets) != 2
        or len(shape) > MOST_DIMENSIONS
    ):
        raise ESCDiffError(
            f"{path}: tensor {shown} has a shape or offsets that are not whole numbers; the file is damaged"
        )
    start, end = offsets
    if end - start != math.prod(shape) * ITEM_BYTES[dtype]:
        raise ESCDiffError(
            f"{path}: tensor {shown} of shape {tuple(shape)} does not fill its {end - start} bytes; "
            "the file is damaged"
        )
    return TensorEntry(dtype, tuple(shape), start, end)


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 48 for v in values)


def _check_layout(entries: Mapping[str, TensorEntry], data_bytes: int, path: Path) -> None:
    """The tensors must fill the rest of the file exactly, without overlap or gap: nothing can hide in it."""
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != position:
            raise ESCDiffError(
                f"{path}: tensor {name[:80]!r} overlaps another or leaves a gap; the file is damaged"
            )
        position = entry.end
    if position != data_bytes:
        raise ESCDiffError(
            f"{path} is truncated or damaged: its tensors claim {position} bytes, {data_bytes} are "
            "there; copy or learn it again"
        )
