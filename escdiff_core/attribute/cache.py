"""Learned attributes found again by what they were learned from: across prompts, restarts and processes."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import ESCDiffError
from .file import Attribute

log = logging.getLogger(__name__)
ALGORITHM = 2                   # raise it when the same inputs would learn something else
# bytes of attributes on disk, and as many of unfinished runs; the least recently used go first
SIZE_LIMIT = 8 << 30
UNFINISHED = ".unfinished"      # folder of a run that was cut short
WAIT = 0.5                      # seconds between looks at another process's lock


def cache_key(parts: Any) -> str:
    """The name under which an attribute learned from ``parts`` (JSON data) is kept, 32 hex digits.

    ``parts`` holds what was given, never what was computed of it: floats differ from machine to machine.
    """
    text = json.dumps([ALGORITHM, parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class AttributeCache:
    """A folder of attribute files by key. Several processes may share it: one learns, the others wait and
    read."""

    def __init__(self, directory: Path, size_limit: int = SIZE_LIMIT):
        self.directory, self.size_limit = Path(directory), size_limit

    def path(self, key: str) -> Path:
        return self.directory / f"{key}.safetensors"

    def unfinished(self, key: str) -> Path:
        """The folder for the state of a run of ``key`` that was cut short; it goes when the run has come to
        its end."""
        return self.directory / f"{key}{UNFINISHED}"

    def get(self, key: str) -> Attribute | None:
        """The attribute kept under ``key``, or None; a file that cannot be read counts as none and is thrown
        away."""
        path = self.path(key)
        try:
            if not path.is_file():
                return None
            found = Attribute.load(path)
        except (ESCDiffError, OSError):
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        with suppress(OSError):
            os.utime(path)          # recently used
        return found

    def get_or_learn(
        self, key: str, learn: Callable[[], Attribute], waiting: Callable[[], None] = lambda: None
    ) -> Attribute:
        """The attribute under ``key``; learned by ``learn()`` and kept if it is not there yet.

        While another process learns the same, ``waiting()`` is called about twice a second; it may raise to
        give up. Where nothing can be kept, as on a full disk, it is learned all the same and a warning goes
        to the log. What ``learn()`` leaves in ``unfinished(key)`` when it raises stays there for the next
        time.
        """
        found = self.get(key)
        if found is not None:
            return found
        with self._lock(key, waiting):
            found = self.get(key)       # the other process may have finished in between
            if found is None:
                try:
                    found = learn()
                finally:
                    self._shrink(UNFINISHED, keep=self.unfinished(key))
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
            # a folder that cannot be written to, or a disk that knows no locks:
            except (OSError, NotImplementedError):
                # what is learned counts, and whether it is kept is said then
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
        shutil.rmtree(self.unfinished(key), ignore_errors=True)
        self._shrink(".safetensors", keep=self.path(key))

    def _shrink(self, ending: str, keep: Path) -> None:
        """Delete the least recently used of what ends in ``ending`` until it is within the limit; ``keep``
        stays in any case."""
        kept = []
        for path in self.directory.glob(f"*{ending}"):
            with suppress(OSError):
                files = [f.stat() for f in (path.iterdir() if path.is_dir() else [path])]
                kept.append((path.stat().st_mtime, sum(f.st_size for f in files), path))
        total = sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if total <= self.size_limit:
                return
            if path != keep:
                with suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                    path.with_suffix(".lock").unlink(missing_ok=True)
                    total -= size
