"""A real ComfyUI server for the tests, and the workflow that ships with quick settings."""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from contextlib import contextmanager
from pathlib import Path

import websocket
from hosts import ROOT, python_of
from PIL import Image

WORKFLOWS = ROOT / "example_workflows" / "api"
SMALL_WORK = ROOT / "tests" / "host_small_work.py"

CLIENT = "test"
FRONT_END = os.environ.get("ESCDIFF_FRONT_END", "")     # the folder of another front end than the host's own


def prepare_base(base: Path, models: Path) -> None:
    """A base directory with the pack in it, the generated SD 1.5 files, and a picture to load."""
    from escdiff_core.bench.references import shape_references
    from escdiff_core.worlds.pocket.world import render

    (base / "custom_nodes").mkdir()
    (base / "custom_nodes" / "escdiff").symlink_to(ROOT)
    (base / "models").mkdir()
    for folder in models.iterdir():
        (base / "models" / folder.name).symlink_to(folder)
    (base / "input").mkdir()
    Image.fromarray((render(shape_references(1)[0]).image * 255).astype("uint8")).save(
        base / "input" / "example.png"
    )


class Server:
    """One ComfyUI on 127.0.0.1 with a base directory of its own; it learns from few and small pictures."""

    def __init__(self, host: Path, base: Path, models: Path):
        prepare_base(base, models)
        (base / "custom_nodes" / SMALL_WORK.name).symlink_to(SMALL_WORK)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.base, self.url, self.log = base, f"http://127.0.0.1:{self.port}", (base / "log.txt").open("w+")
        self.process = subprocess.Popen([
            str(python_of(host)), "main.py", "--cpu", "--base-directory",
            str(base), "--listen", "127.0.0.1", "--port",
            str(self.port), "--disable-api-nodes", "--preview-method", "none", "--database-url",
            "sqlite:///:memory:", *(["--front-end-root", FRONT_END] if FRONT_END else [])
        ], cwd=host, stdout=self.log, stderr=subprocess.STDOUT)
        end = time.monotonic() + 120
        while self.process.poll() is None and time.monotonic() < end:
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise AssertionError(self.said())

    def said(self) -> str:
        return Path(self.log.name).read_text()[-4000:]

    def get(self, path: str):
        with urllib.request.urlopen(self.url + path, timeout=20) as answer:
            return json.load(answer)

    def post(self, path: str, content: dict) -> dict:
        """Post JSON. Raises urllib.error.HTTPError for what the server refuses."""
        request = urllib.request.Request(
            self.url + path, json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read() or b"{}")

    def offers(self, path: str) -> bool:
        """Whether this version of the server answers a GET there."""
        try:
            self.get(path)
        except (urllib.error.HTTPError, json.JSONDecodeError):
            return False
        return True

    def takes(self, path: str) -> bool:
        """Whether this version of the server has the route."""
        try:
            self.post(path, {})
        except urllib.error.HTTPError as error:
            return error.code not in (404, 405)
        return True

    def submit(self, graph: dict) -> str:
        return self.post("/prompt", {"prompt": graph, "client_id": CLIENT, "prompt_id": str(uuid.uuid4())})[
            "prompt_id"
        ]

    def run(self, graph: dict, seconds: float = 600) -> dict:
        """Queue ``graph`` and return its history entry; a graph that the server refuses comes back as
        ``{"refused": …}``."""
        try:
            return self.wait_for(self.submit(graph), seconds)
        except urllib.error.HTTPError as error:
            return {"refused": json.load(error)}

    def wait_for(self, number: str, seconds: float = 600) -> dict:
        """The history entry of a submitted graph, when it is there."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            history = self.get(f"/history/{number}")
            if number in history:
                return history[number]
            time.sleep(0.05)
        raise AssertionError("no answer in time: " + self.said())

    @contextmanager
    def page(self):
        """A websocket as the front end opens one, for what is submitted here."""
        socket = websocket.create_connection(
            f"{self.url.replace('http', 'ws')}/ws?clientId={CLIENT}", timeout=1
        )
        try:
            yield socket
        finally:
            socket.close()

    def cancel_at(self, socket, number: str, node: str, step: int, seconds: float = 120) -> dict:
        """Press cancel when ``node`` has come to ``step``, as the page hears it; returns the history entry of
        ``number``."""
        end, reached = time.monotonic() + seconds, False
        while not reached:
            assert time.monotonic() < end, self.said()
            try:
                message = socket.recv()
            except websocket.WebSocketTimeoutException:
                continue
            if isinstance(message, str) and (told := json.loads(message))["type"] == "progress":
                reached = told["data"]["node"] == node and told["data"]["value"] >= step
        self.post("/interrupt", {})
        entry = self.wait_for(number, 60)
        assert "execution_interrupted" in [m[0] for m in entry["status"]["messages"]], entry["status"]
        return entry

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


def workflow(name: str = "pocket_quickstart", **changes) -> dict:
    """A shipped workflow; ``changes`` are ``node__input=value``."""
    graph = json.loads((WORKFLOWS / f"{name}.json").read_text())
    for place, value in changes.items():
        node, field = place.split("__")
        graph[node]["inputs"][field] = value
    return graph


def one_step(name: str, **changes) -> dict:
    """A shipped workflow for a checkpoint that is large also with random weights: small pictures, one step of
    everything."""
    graph = workflow(name, **changes)
    for node in graph.values():
        if node["class_type"].startswith("ESCDiffLearn"):
            node["inputs"] |= {"steps": 1, "batch_size": 1, "preview_every": 0}
        node["inputs"] |= {"EmptyLatentImage": {"width": 64, "height": 64}, "KSampler": {"steps": 1}}.get(
            node["class_type"], {}
        )
    return graph


def untyped(graph: dict) -> dict:
    """The graph with the node that learns either kind, whose output fits everywhere, as in older saved
    graphs."""
    for node, kind in (("learn_shape", "shape"), ("learn_appearance", "appearance")):
        graph[node] = {
            "class_type": "ESCDiffLearnAttribute",
            "inputs": {**graph[node]["inputs"], "kind": kind},
        }
    return graph


QUICK = {
    "learn_shape__steps": 2, "learn_appearance__steps": 2, "learn_shape__batch_size": 2,
    "learn_appearance__batch_size": 2, "sampler__steps": 2, "latent__batch_size": 1
}


def error_of(entry: dict) -> str:
    """What a node that turned red says."""
    return next(m[1]["exception_message"] for m in entry["status"]["messages"] if m[0] == "execution_error")
