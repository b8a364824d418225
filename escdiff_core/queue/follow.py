"""Waiting for a job: the websocket tells when to look and how far it is; the server's history alone says that
it ended."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from .client import Server

try:
    import websocket
except ImportError:  # polling does as well, a little later
    websocket = None


@dataclass(frozen=True)
class Pace:
    """How often to ask, in seconds."""

    poll: float = 1.0            # without a websocket
    look: float = 10.0           # with one, in case a message was lost
    reconnect: float = 15.0      # between attempts to open a websocket
    retry: float = 2.0           # between attempts to reach a server that is away
    # a server away for longer is given up; a restart with many packs takes minutes
    patience: float = 300.0


class StoppedError(Exception):
    """The person stopped the run."""


class Steps:
    """How far a job is, from 0 to 1: nodes done, and the part of the one that runs."""

    def __init__(self, nodes: int):
        self.nodes, self.done, self.node, self.part = max(nodes, 1), set(), None, 0.0

    def hear(self, kind: str, data: dict) -> None:
        """Take in a websocket message of this job."""
        if kind == "execution_cached":
            self.done.update(data.get("nodes") or [])
        elif kind == "executing":
            if self.node is not None:
                self.done.add(self.node)
            self.node, self.part = data.get("node"), 0.0
        elif kind == "progress" and data.get("max"):
            self.part = min(1.0, data.get("value", 0) / data["max"])

    @property
    def fraction(self) -> float:
        return min(0.99, (len(self.done) + self.part) / self.nodes)  # its pictures are still to come


class Follower:
    """Waits for the jobs of one server, one after the other."""

    def __init__(self, server: Server, pace: Pace, stop: threading.Event):
        self.server, self.pace, self.stop = server, pace, stop
        self.socket, self.connect_at = None, 0.0

    def wait(self, prompt_id: str, nodes: int, progress: Callable[[float], None]) -> dict | None:
        """The job's history entry; None if the server knows nothing of it (any more). Raises GoneError,
        StoppedError."""
        steps, look_at = Steps(nodes), 0.0
        while True:
            if self.stop.is_set():
                raise StoppedError
            if time.monotonic() >= look_at:
                entry, known = self.server.find(prompt_id)
                if entry is not None or not known:
                    return entry
                look_at = time.monotonic() + self.pace.look
            message = self._listen()
            if self.socket is None:
                look_at = 0.0
            elif message.get("data", {}).get("prompt_id") == prompt_id:
                steps.hear(message["type"], message["data"])
                progress(steps.fraction)
                if message["type"] == "executing" and message["data"].get("node") is None:
                    look_at = 0.0

    def close(self) -> None:
        """Close the websocket."""
        if self.socket is not None:
            self.socket.close(timeout=1)
            self.socket = None

    def open(self) -> None:
        """Open the websocket if there can be one; before a job is submitted, so that its first messages are
        heard."""
        if self.socket is not None or websocket is None or time.monotonic() < self.connect_at:
            return
        self.connect_at = time.monotonic() + self.pace.reconnect
        address = f"ws{self.server.url.removeprefix('http')}/ws?clientId={self.server.client_id}"
        try:
            self.socket = websocket.create_connection(address, timeout=5)
            self.socket.settimeout(self.pace.poll)
        except (websocket.WebSocketException, OSError, ValueError):
            self.socket = None

    def _listen(self) -> dict:
        """The next message, {} if none comes within a poll's time."""
        self.open()
        if self.socket is None:
            self.stop.wait(self.pace.poll)
            return {}
        try:
            kind, data = self.socket.recv_data()
            if kind == websocket.ABNF.OPCODE_CLOSE:
                raise OSError("closed")
            message = json.loads(data) if kind == websocket.ABNF.OPCODE_TEXT else {}  # binary: previews
        except websocket.WebSocketTimeoutException:
            return {}
        except (websocket.WebSocketException, OSError):
            self.socket = None
            self.server.absences += 1
            return {}
        except ValueError:
            return {}
        return message if isinstance(message, dict) and isinstance(message.get("data"), dict) else {}
