"""How the fields and tensors of an attribute stand in its file: metadata as JSON, tensors under
two prefixes."""

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import ESCDiffError
from .header import Header
from .tensors import ALPHA, check_delta, check_embeddings

METADATA_KEY = "escdiff.attribute"
FORMAT_VERSION = 1
EMBEDDING_PREFIX, DELTA_PREFIX = "embedding.", "delta."
STORED = {EMBEDDING_PREFIX: torch.float32, DELTA_PREFIX: torch.float16}
DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16"}


def read_metadata(header: Header, path: Path) -> dict[str, Any]:
    """Return the metadata with blocks as a tuple and the thumbnail as bytes."""
    if METADATA_KEY not in header.metadata:
        from ..families.recognise import FOREIGN  # brings diffusers, which reading an attribute does without

        marks = next(
            (f.title for f in FOREIGN if any(m in name for name in header.entries for m in f.marks)), None
        )
        what = f"looks like {marks}" if marks else "is a safetensors file of another kind"
        raise ESCDiffError(f"{path} {what}, not an attribute; ‹an attribute›")
    try:
        data = json.loads(header.metadata[METADATA_KEY])
        version = data.pop("format_version")
        if type(version) is not int or version < 1:
            raise ValueError("the format version is not a number")
        if version > FORMAT_VERSION:
            raise ESCDiffError(
                f"{path} was written by a newer ESCDiff (format {version}, this one reads up to "
                f"{FORMAT_VERSION}); update ESCDiff"
            )
        if not isinstance(data["blocks"], list):
            raise ValueError("blocks is not a list")
        data["blocks"] = tuple(data["blocks"])
        data["thumbnail"] = base64.b64decode(data["thumbnail"], validate=True)
        return data
    except ESCDiffError:
        raise
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError, binascii.Error) as error:
        why = str(error)[:80]
        raise ESCDiffError(
            f"{path}: the attribute's metadata is unusable ({why}); the file is damaged"
        ) from error


def as_json(data: Mapping[str, Any]) -> str:
    try:
        return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ESCDiffError(
            f"the attribute's metadata is not plain JSON data ({error}); keep only texts, finite "
            "numbers, lists and tables in extra"
        ) from error


def check_entries(header: Header, path: Path) -> None:
    """Check names, shapes and dtypes from the header alone, before any tensor is read."""
    stray = next((name for name in header.entries if not name.startswith(tuple(STORED))), None)
    if stray is not None:
        raise ESCDiffError(
            f"{path}: tensor {stray[:80]!r} has no place in an attribute; the file is damaged or hostile"
        )
    try:
        check_embeddings(
            {name: e.shape for name, e in with_prefix(header.entries, EMBEDDING_PREFIX).items()}
        )
        check_delta({name: e.shape for name, e in with_prefix(header.entries, DELTA_PREFIX).items()})
    except ESCDiffError as error:
        raise ESCDiffError(f"{path}: {error.args[0]}") from error
    for name, entry in header.entries.items():
        needed = DTYPE_NAMES[_stored_dtype(name)]
        if entry.dtype != needed:
            raise ESCDiffError(f"{path}: tensor {name[:80]!r} has dtype {entry.dtype}; needed: {needed}")


def _stored_dtype(name: str) -> torch.dtype:
    prefix = next(prefix for prefix in STORED if name.startswith(prefix))
    return torch.float32 if name.endswith(ALPHA) else STORED[prefix]


def stored(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a CPU copy in the dtype of the file. A copy, because tensors that share memory cannot be
    saved."""
    kept = tensor.detach().to("cpu", _stored_dtype(name), copy=True).contiguous()
    if not bool(kept.isfinite().all()):
        if bool(tensor.isfinite().all()):
            raise ESCDiffError(f"tensor {name} holds values up to {float(tensor.abs().max()):.3g}, fp16 ends "
                               "at 65504: the learning ran away; take fewer steps or another recipe")
        raise ESCDiffError(
            f"tensor {name} holds NaN or infinite values: the file is damaged, or the learning ran "
            "away; copy it again, or learn it with fewer steps or another recipe"
        )
    return kept


def with_prefix(table: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in table.items() if name.startswith(prefix)}
