"""DIR/report.json: what became of each job; the next run of the command reads it and does only what is
missing."""

import json
import threading
from pathlib import Path

from ..errors import ESCDiffError
from ..whole import unfinished
from .table import Job


class Report:
    """The report of a folder. Entries of earlier runs that are done stay until their job is done anew."""

    def __init__(self, folder: Path, about: dict):
        self.folder, self.path, self.about, self.lock = folder, folder / "report.json", about, threading.Lock(
        )
        self.jobs: dict[str, dict] = {}
        if self.path.is_file():
            try:
                earlier = json.loads(self.path.read_text(encoding="utf-8"))["jobs"]
                self.jobs = {name: entry for name, entry in earlier.items() if entry["status"] == "done"}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ESCDiffError(
                    f"{self.path} is no report of queue; choose another --out or remove it"
                ) from error

    def has(self, job: Job) -> bool:
        """Whether this very job is done and its files are still here."""
        entry = self.jobs.get(job.name)
        return bool(entry) and entry.get("hash") == job.digest and all(
            (self.folder / f).is_file() for f in entry.get("files", []))

    def done(self, job: Job, pictures: list[tuple[str, bytes]], **facts) -> None:
        """Write a job's pictures (suffix, bytes) as ``<name>_<i>``, drop those of an earlier job of this
        name, note it."""
        names = [f"{job.name}_{i}{suffix}" for i, (suffix, _) in enumerate(pictures)]
        for name, (_, data) in zip(names, pictures, strict=True):
            write_whole(self.folder / name, data)
        with self.lock:
            for old in set(self.jobs.get(job.name, {}).get("files", [])) - set(names):
                if Path(old).name == old:
                    (self.folder / old).unlink(missing_ok=True)
            self._note(job, status="done", files=names, **facts)

    def failed(self, job: Job, error: str, **facts) -> None:
        """Note that a job failed, and why."""
        with self.lock:
            self._note(job, status="failed", error=error, **facts)

    def cancelled(self, job: Job, how: str, **facts) -> None:
        """Note that a person cancelled a job on the server, and how."""
        with self.lock:
            self._note(job, status="cancelled", error=how, **facts)

    def undone(self, jobs: list[Job]) -> dict[str, tuple[str, str]]:
        """Status ("failed" or "cancelled") and sentence of each of these jobs that came to nothing, by
        name."""
        entries = {job.name: self.jobs.get(job.name, {}) for job in jobs}
        return {
            name: (e["status"], e["error"])
            for name, e in entries.items()
            if e.get("status") in ("failed", "cancelled")
        }

    def _note(self, job: Job, **entry) -> None:
        self.jobs[job.name] = {"hash": job.digest, "inputs": job.values, **entry}
        write_whole(
            self.path,
            (json.dumps({**self.about, "jobs": self.jobs}, indent=1, ensure_ascii=False) + "\n").encode(),
        )


def write_whole(path: Path, data: bytes) -> None:
    """Write a file; never half of it."""
    with unfinished(path) as file:
        file.write_bytes(data)
