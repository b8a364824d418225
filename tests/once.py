"""What takes long to make is made once for all workers of a run."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def for_all_workers(tmp_path_factory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that ``make`` fills, once for all workers."""
    own = tmp_path_factory.getbasetemp()                    # of this run's worker, below that of the run
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            making = folder.with_name(f"{name}.part")
            shutil.rmtree(making, ignore_errors=True)      # of one that failed
            making.mkdir()
            make(making)
            making.rename(folder)
    return folder
