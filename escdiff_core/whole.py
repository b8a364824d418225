"""Small files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A name to write to; it becomes ``path`` when the block ends well."""
    beside = path.with_name(path.name + ".tmp")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        with suppress(OSError):         # it must not hide what went wrong
            beside.unlink(missing_ok=True)
