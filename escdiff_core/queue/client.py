"""One ComfyUI server over HTTP: what it is asked, and what its answers mean. No waiting and no trying again
here."""

import json
import time
import uuid
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ..errors import ESCDiffError
from .table import Job, Picture
from .workflow import Graph, title_of

try:
    import requests
except ImportError as error:  # a ComfyUI environment does without
    raise ESCDiffError("queue needs two more libraries: pip install requests websocket-client") from error

LOOPBACK = ("localhost", "127.0.0.1", "::1")
AWAY = (502, 503, 504)                       # a proxy in front of a server that restarts
TIMEOUT = (5, 60)                            # s: to connect; between bytes (a busy server answers late)


class GoneError(Exception):
    """The server does not answer now; it may come back."""


class RefusedError(Exception):
    """The server answers, and says no; the message is its sentence."""


@dataclass
class Server:
    """A ComfyUI at ``url``. Methods raise :class:`GoneError` or :class:`RefusedError`, and are called by one
    thread."""

    url: str
    client_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    uploaded: dict[str, str] = field(default_factory=dict)  # content-addressed name: name on the server

    def __post_init__(self):
        self.url = (self.url if "://" in self.url else f"http://{self.url}").rstrip("/")
        try:
            parts = urlsplit(self.url)
            ok = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
        except ValueError:
            ok = False
        if not ok:
            raise ESCDiffError(f"--server {self.url} is no address; give one such as http://127.0.0.1:8188")
        self.answered = 0.0                  # when it last did, by the monotonic clock
        # how often it did not: in between it may have restarted and forgotten everything
        self.absences = 0
        self.session = requests.Session()
        # a proxy cannot reach this machine's own server
        self.session.trust_env = parts.hostname not in LOOPBACK
        # a password in the address is not for reports
        self.label = parts.netloc.rpartition("@")[2] + parts.path

    def check(self) -> None:
        """Raise ESCDiffError unless a ComfyUI answers."""
        try:
            self._queue()
        except GoneError as error:
            raise ESCDiffError(f"{error}; start ComfyUI there or check --server") from error
        except RefusedError as error:
            raise ESCDiffError(
                f"what answers at {self.label} is no ComfyUI ({error}); check --server"
            ) from error

    def upload(self, picture: Picture) -> str:
        """Upload once; returns the value for a LoadImage input."""
        if picture.name not in self.uploaded:
            with picture.path.open("rb") as file:
                answer = self._json(
                    "POST", "/upload/image", files={"image": (picture.name, file)}, data={"type": "input"}
                )
            folder = answer.get("subfolder")
            self.uploaded[picture.name] = f"{folder}/{answer['name']}" if folder else answer["name"]
        return self.uploaded[picture.name]

    def submit(self, job: Job, prompt_id: str) -> str:
        """Queue a job with its pictures. Returns what the server refused of it ("" = nothing): it may run the
        rest."""
        graph = {key: {**node, "inputs": dict(node["inputs"])} for key, node in job.graph.items()}
        for (key, name), picture in job.pictures.items():
            graph[key]["inputs"][name] = self.upload(picture)
        body = {"prompt": graph, "prompt_id": prompt_id, "client_id": self.client_id}
        answer = self._ask("POST", "/prompt", graph=graph, json=body)
        return _refusals(graph, self._read(answer))

    def find(self, prompt_id: str) -> tuple[dict | None, bool]:
        """(history entry if the job has ended, whether the server knows the job at all)."""
        entry = self._history(prompt_id)
        if entry is None and not any(prompt_id in ids for ids in self._queue()):
            entry = self._history(prompt_id)  # it may have ended between the two questions
            return entry, entry is not None
        return entry, True

    def view(self, item: dict) -> bytes:
        """The bytes of a file that a history entry names."""
        query = {name: item.get(name, "") for name in ("filename", "subfolder", "type")}
        return self._ask("GET", "/view", params=query).content

    def withdraw(self, prompt_id: str) -> None:
        """Take a job back, queued or running; another person's job goes on."""
        running, pending = self._queue()
        if prompt_id in pending:
            self._ask("POST", "/queue", json={"delete": [prompt_id]})
        elif prompt_id in running:
            self._ask("POST", "/interrupt", json={"prompt_id": prompt_id})

    def _history(self, prompt_id: str) -> dict | None:
        return self._json("GET", f"/history/{prompt_id}").get(prompt_id)

    def _queue(self) -> tuple[list[str], list[str]]:
        """Prompt ids that run, and that wait."""
        answer = self._json("GET", "/queue")
        if "queue_running" not in answer:
            raise RefusedError("its /queue is another one")
        return [item[1] for item in answer["queue_running"]], [item[1] for item in answer["queue_pending"]]

    def _json(self, method: str, path: str, **options) -> dict:
        return self._read(self._ask(method, path, **options))

    def _read(self, answer: "requests.Response") -> dict:
        try:
            read = answer.json()
        except ValueError:
            read = None
        if not isinstance(read, dict):
            raise RefusedError(f"{self.label} does not answer {urlsplit(answer.url).path} as a ComfyUI does")
        return read

    def _ask(self, method: str, path: str, graph: Graph | None = None, **options) -> "requests.Response":
        try:
            answer = self.session.request(method, self.url + path, timeout=TIMEOUT, **options)
        except requests.RequestException as error:
            self.absences += 1
            why = "no answer in time" if isinstance(error, requests.Timeout) else "no connection"
            raise GoneError(f"no ComfyUI answers at {self.label} ({why})") from error
        if answer.status_code in AWAY:
            self.absences += 1
            raise GoneError(f"no ComfyUI answers at {self.label} (status {answer.status_code})")
        self.answered = time.monotonic()
        if answer.status_code >= 400:
            try:
                sentence = _refusals(graph or {}, json.loads(answer.text))
            except (ValueError, AttributeError, TypeError):
                sentence = ""
            raise RefusedError(sentence or f"{self.label} answers {path} with status {answer.status_code}")
        return answer


def was_stopped(entry: dict) -> bool:
    """Whether a person stopped the job of a history entry while it ran."""
    return any(
        event == "execution_interrupted" for event, _ in (entry.get("status") or {}).get("messages", [])
    )


def failure_of(graph: Graph, entry: dict) -> str:
    """Why a job in the history failed, with the title of the node; "" if it did not."""
    status = entry.get("status") or {}
    for event, told in status.get("messages", []):
        if event == "execution_error":
            title = title_of(graph, told["node_id"]) if told.get("node_id") in graph else told.get(
                "node_type", "a node")
            return (
                f"{title}: "
                f"{' '.join(str(told.get('exception_message') or told.get('exception_type')).split())}"
            )
        if event == "execution_interrupted":
            return f"{title_of(graph, str(told.get('node_id')))}: stopped on the server"
    return "the server says only that it failed; see its log" if status.get("status_str") == "error" else ""


def files_of(graph: Graph, entry: dict) -> list[dict]:
    """The pictures that a history entry names, in the order of the graph; previews only if nothing was
    saved."""
    outputs = entry.get("outputs") or {}
    order = [*(key for key in graph if key in outputs), *(key for key in outputs if key not in graph)]
    found = [item for key in order for item in (outputs[key] or {}).get("images") or []]
    found = [item for item in found if isinstance(item, dict) and "filename" in item]
    return [item for item in found if item.get("type") == "output"] or found


def _refusals(graph: Graph, answer: dict) -> str:
    """The sentence in an answer of /prompt; "" if it refuses nothing."""
    told = [f"{title_of(graph, key)}: {_sentence(error)}"
            for key, node in (answer.get("node_errors") or {}).items() for error in node["errors"]]
    error = answer.get("error")
    general = _sentence(error) if isinstance(error, dict) else error or ""
    return "; ".join(told) or general


def _sentence(error: dict) -> str:
    return " ".join(": ".join(str(error[part]) for part in ("message", "details") if error.get(part)).split())
