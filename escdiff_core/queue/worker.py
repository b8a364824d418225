"""A thread for each server: one job in flight there, and one queued behind it."""

import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import TypeVar

from .client import GoneError, RefusedError, Server, failure_of, files_of, was_stopped
from .follow import Follower, Pace, StoppedError
from .report import Report
from .share import Pool, Task, Told

MOST_LOSSES = 5  # a job lost so often is likely what brings the server down
TAKEN_OFF = "taken off the server's queue before it was drawn; run the command again to have it drawn"
STOPPED = "stopped on the server while it was drawn; run the command again to have it drawn"
T = TypeVar("T")


class Worker(threading.Thread):
    """Does tasks on one server until none is left, or until the server has been away for too long."""

    def __init__(self, server: Server, pool: Pool, report: Report, pace: Pace, servers: int, told: Told):
        super().__init__(daemon=True)
        self.server, self.pool, self.report, self.pace, self.servers, self.told = (
            server,
            pool,
            report,
            pace,
            servers,
            told,
        )
        self.follower = Follower(server, pace, pool.stop)
        self.mine: deque[Task] = deque()
        self.drawn: str | None = None        # prompt id of the last job that this server has ended
        self.error: BaseException | None = None
        self.gone = ""

    def run(self) -> None:
        try:
            while self._fill():
                self._finish()
        except GoneError as error:
            self.gone = f"{error} for {self.pace.patience:g} s"
            for task in reversed(self.mine):
                self.pool.give_back(task)
        except StoppedError:
            self._withdraw()
        except BaseException as error:  # the main thread raises it
            self.error = error
            self._withdraw()
            self.pool.stop.set()
        finally:
            self.told.at(self, 0.0)
            self.follower.close()

    def _fill(self) -> bool:
        """Have one task at the server, and another behind it while there are enough for all servers; False:
        nothing is left."""
        while len(self.mine) < 2:
            task = self.pool.take(self.servers - 1) if self.mine else self.pool.take(wait=True)
            if task is None:
                break
            self.mine.append(task)
            if not self._submit(task):
                self.mine.pop()
        if self.pool.stop.is_set():
            raise StoppedError
        return bool(self.mine)

    def _submit(self, task: Task) -> bool:
        """Bring a task to the server unless it is there; False if the server refuses it."""
        def attempt() -> None:
            self.follower.open()
            if task.prompt_id is not None and self.server.find(task.prompt_id)[1]:
                task.absences = self.server.absences
                return  # an earlier attempt got through though its answer did not
            task.prompt_id, task.absences, task.before = str(uuid.uuid4()), self.server.absences, self.drawn
            task.refused = self.server.submit(task.job, task.prompt_id)

        task.began = task.began or time.monotonic()
        try:
            self._patiently(attempt)
        except RefusedError as error:
            self._fail(task, str(error))
            return False
        return True

    def _finish(self) -> None:
        """Wait for the first task and take its pictures; what the server has lost is submitted again, what a
        person has taken from it is not."""
        task = self.mine[0]
        graph = task.job.graph
        why = "the server forgot it"
        try:
            entry = self._patiently(lambda: self.follower.wait(task.prompt_id, len(graph), self._at))
            if entry is None and self._patiently(lambda: self._remembers(task)):
                return self._cancel(task, TAKEN_OFF)
            if entry is not None and was_stopped(entry):
                return self._cancel(task, STOPPED)
            failure = failure_of(graph, entry) if entry is not None else ""
            if entry is not None and not failure:
                pictures = [self._fetch(item) for item in files_of(graph, entry)]
        except RefusedError as error:  # a preview is gone after a restart
            entry, failure, why = None, "", str(error)
        if entry is None:
            task.losses += 1
            self.server.uploaded.clear()  # a new container has lost them too
            if task.losses >= MOST_LOSSES:
                failure = f"given up after {task.losses} attempts: {why}; see the server's log"
            elif self._again(task):
                return
            else:
                self.mine.popleft()
                return
        self.mine.popleft()
        self.drawn = task.prompt_id if entry is not None else self.drawn
        if failure or task.refused:
            self._fail(task, failure or f"run without the outputs that the server refused: {task.refused}")
        else:
            self.report.done(task.job, pictures, **self._facts(task))
            self.told.say(
                f"{task.job.name}: {len(pictures)} {'picture' if len(pictures) == 1 else 'pictures'} "
                f"from {self.server.label}, {time.monotonic() - task.began:.1f} s"
            )
            self._settle()

    def _remembers(self, task: Task) -> bool:
        """Whether the server is still the one that took the task: then a person has taken the task off its
        queue.

        It has been there all the time, or it knows a job that ended before it took this one.
        """
        return self.server.absences == task.absences or (
            task.before is not None and self.server.find(task.before)[1]
        )

    def _cancel(self, task: Task, how: str) -> None:
        self.mine.popleft()
        self.report.cancelled(task.job, how, **self._facts(task))
        self.told.say(f"{task.job.name}: cancelled: {how}")
        self._settle()

    def _fetch(self, item: dict) -> tuple[str, bytes]:
        """The suffix and the bytes of a result."""
        suffix = PurePosixPath(item["filename"]).suffix
        return suffix if re.fullmatch(r"\.\w{1,8}", suffix) else ".png", self._patiently(
            lambda: self.server.view(item)
        )

    def _again(self, task: Task) -> bool:
        self.told.say(f"{task.job.name}: {self.server.label} lost it; submitted again")
        self.told.at(self, 0.0)
        task.prompt_id = None
        return self._submit(task)

    def _fail(self, task: Task, error: str) -> None:
        self.report.failed(task.job, error, **self._facts(task))
        self.told.say(f"{task.job.name}: failed: {error}")
        self._settle()

    def _at(self, part: float) -> None:
        self.told.at(self, part)

    def _settle(self) -> None:
        self.told.at(self, 0.0, finished=1)
        self.pool.settle()

    def _facts(self, task: Task) -> dict:
        return {
            "server": self.server.label,
            "prompt_id": task.prompt_id,
            "seconds": round(time.monotonic() - task.began, 2),
        }

    def _patiently(self, call: Callable[[], T]) -> T:
        """Do ``call`` until the server answers. Raises GoneError when it has been away for longer than the
        patience."""
        away = None
        while True:
            try:
                return call()
            except GoneError:
                now = time.monotonic()
                if away is None or self.server.answered > away:  # it has been back in the meantime
                    away = now
                if now - away >= self.pace.patience:
                    raise
                self.pool.stop.wait(self.pace.retry)
                if self.pool.stop.is_set():
                    raise StoppedError from None

    def _withdraw(self) -> None:
        """Leave nothing of ours in the server's queue; what waits goes first, so that nothing starts in
        between."""
        for task in reversed(self.mine):
            try:
                if task.prompt_id is not None:
                    self.server.withdraw(task.prompt_id)
            except (GoneError, RefusedError):
                return
