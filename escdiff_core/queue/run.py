"""The jobs shared among servers, from start to end."""

import threading
from collections.abc import Callable

from .client import Server
from .follow import Pace
from .report import Report
from .share import Pool, Told
from .table import Job
from .worker import Worker


def run_jobs(jobs: list[Job], servers: list[Server], report: Report, pace: Pace | None = None,
             progress: Callable[[float, int], None] = lambda _done, _total: None,
             say: Callable[[str], None] = lambda _line: None) -> None:
    """Do the jobs and note each in ``report``; one that fails does not stop the others. Ctrl-C takes back
    what is queued.

    Raises OSError if a result cannot be written.
    """
    if not jobs:
        return
    pace, stop = pace or Pace(), threading.Event()
    pool, told = Pool(jobs, stop), Told(len(jobs), progress, say)
    workers = [Worker(server, pool, report, pace, len(servers), told) for server in servers]
    for worker in workers:
        worker.start()
    try:
        while any(worker.is_alive() for worker in workers):
            for worker in workers:
                worker.join(0.1)
    # Ctrl-C is no Exception; what is queued on the servers must be taken back all the same
    except BaseException:
        stop.set()
        for worker in workers:
            worker.join(10)
        raise
    for worker in workers:
        if worker.error is not None:
            raise worker.error
    gone = "; ".join(worker.gone for worker in workers if worker.gone)
    for task in pool.waiting:
        report.failed(task.job, f"not done: {gone}")
        told.say(f"{task.job.name}: not done: {gone}")
