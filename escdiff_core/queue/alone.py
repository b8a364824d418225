"""One command at a time in an output folder: two of them would draw every job twice and write over each
other's report."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import ESCDiffError

# Windows lets nobody read a file that is locked: the owner has its own
LOCK, OWNER = ".queue.lock", ".queue.json"


@contextmanager
def alone_in(folder: Path) -> Iterator[Path]:
    """Hold the folder while the block runs. Raises ESCDiffError naming the command that holds it already.

    The lock is the operating system's, so that it ends with its process, however that ends.
    """
    lock, owner = FileLock(str(folder / LOCK)), folder / OWNER
    try:
        with suppress(NotImplementedError):    # a disk that knows no locks, as some network disks
            lock.acquire(timeout=0)
    except Timeout as error:
        raise ESCDiffError(
            f"another queue command{_whose(owner)} is drawing into {folder}; wait until it has ended, "
            "or give another --out"
        ) from error
    except OSError as error:
        raise ESCDiffError(
            f"--out {folder} cannot be written ({error.strerror or error}); give a folder of your own"
        ) from error
    told = {
        "process": os.getpid(),
        "machine": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    try:
        owner.write_text(json.dumps(told))
        yield folder
    finally:
        with suppress(OSError):         # it must not hide what went wrong
            owner.unlink(missing_ok=True)
        lock.release()


def _whose(owner: Path) -> str:
    """`` (process 12 on that machine, since …)`` where the owner has said so."""
    with suppress(OSError, ValueError, KeyError):
        told = json.loads(owner.read_text())
        return f" (process {told['process']} on {told['machine']}, since {told['since']})"
    return ""
