"""What the servers share: the jobs that wait, and what the person sees of all of them together."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .table import Job


@dataclass
class Task:
    """A job on its way."""

    job: Job
    prompt_id: str | None = None  # of the latest submission
    refused: str = ""             # outputs that the server left out of it
    losses: int = 0
    absences: int = 0             # of the server until the latest submission
    before: str | None = None     # prompt id of the last job that this server had ended by then
    began: float = 0.0


class Pool:
    """Tasks that wait for a server, and the count of those not yet settled."""

    def __init__(self, jobs: list[Job], stop: threading.Event):
        self.waiting, self.open, self.stop, self.changed = deque(
            Task(job) for job in jobs), len(jobs), stop, threading.Condition()

    def take(self, spare: int = 0, wait: bool = False) -> Task | None:
        """The next task, if more than ``spare`` wait; ``wait`` for one until all are settled, since one may
        be given back."""
        with self.changed:
            while wait and self.open and not self.waiting and not self.stop.is_set():
                self.changed.wait(0.5)
            return self.waiting.popleft() if len(self.waiting) > spare and not self.stop.is_set() else None

    def give_back(self, task: Task) -> None:
        """Let another server do a task."""
        with self.changed:
            task.prompt_id = None
            self.waiting.appendleft(task)
            self.changed.notify_all()

    def settle(self) -> None:
        """A task is done or has failed."""
        with self.changed:
            self.open -= 1
            self.changed.notify_all()


class Told:
    """What the person sees of all workers together: jobs done, with the parts of those that run."""

    def __init__(self, total: int, progress: Callable[[float, int], None], say: Callable[[str], None]):
        self.total, self.progress, self._say, self.lock = total, progress, say, threading.Lock()
        self.finished, self.parts = 0, {}

    def at(self, worker: object, part: float, finished: int = 0) -> None:
        """A worker's job is this far, or ``finished``."""
        with self.lock:
            self.finished += finished
            self.parts[worker] = part
            self.progress(round(min(self.total, self.finished + sum(self.parts.values())), 2), self.total)

    def say(self, line: str) -> None:
        """Print a line, whole."""
        with self.lock:
            self._say(line)
