"""Learned attributes found again by what they were learned from: across prompts, restarts and processes."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import ESCDiffError
from .file import Attribute

log = logging.getLogger(__name__)
ALGORITHM = 1                   # raise it when the same inputs would learn something else
SIZE_LIMIT = 8 << 30            # bytes of attributes on disk; the least recently used go first
WAIT = 0.5                      # seconds between looks at another process's lock


def cache_key(parts: Any) -> str:
    """The name under which an attribute learned from ``parts`` (JSON data) is kept, 32 hex digits."""
    text = json.dumps([ALGORITHM, parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class AttributeCache:
    """A folder of attribute files by key. Several processes may share it: one learns, the others wait and read."""

    def __init__(self, directory: Path, size_limit: int = SIZE_LIMIT):
        self.directory, self.size_limit = Path(directory), size_limit

    def path(self, key: str) -> Path:
        return self.directory / f"{key}.safetensors"

    def get(self, key: str) -> Attribute | None:
        """The attribute kept under ``key``, or None; a file that cannot be read counts as none and is thrown away."""
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            found = Attribute.load(path)
        except ESCDiffError:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        with suppress(OSError):
            os.utime(path)          # recently used
        return found

    def get_or_learn(self, key: str, learn: Callable[[], Attribute], waiting: Callable[[], None] = lambda: None) -> Attribute:
        """The attribute under ``key``; learned by ``learn()`` and kept if it is not there yet.

        While another process learns the same, ``waiting()`` is called about twice a second; it may raise to give up. Where
        nothing can be kept, as on a full disk, it is learned all the same and a warning goes to the log.
        """
        found = self.get(key)
        if found is not None:
            return found
        with self._lock(key, waiting):
            found = self.get(key)       # the other process may have finished in between
            if found is None:
                found = learn()
                self._keep(found, key)
        return found

    @contextmanager
    def _lock(self, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        lock = FileLock(str(self.path(key).with_suffix(".lock")))
        while True:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=WAIT)
                break
            except Timeout:
                waiting()
            except OSError:             # a folder that cannot be written to: said when there is something to keep
                break
        try:
            yield
        finally:
            lock.release()

    def _keep(self, attribute: Attribute, key: str) -> None:
        try:
            attribute.save(self.path(key))
        except ESCDiffError as error:
            log.warning("what was learned is not kept for the next time: %s", error)
            return
        self._shrink(keep=self.path(key))

    def _shrink(self, keep: Path) -> None:
        """Delete the least recently used files until the folder is within its limit; ``keep`` stays in any case."""
        files = []
        for path in self.directory.glob("*.safetensors"):
            with suppress(OSError):
                files.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.size_limit:
                return
            if path != keep:
                with suppress(OSError):
                    path.unlink()
                    path.with_suffix(".lock").unlink(missing_ok=True)
                    total -= size
