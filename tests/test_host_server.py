"""A real ComfyUI server runs the pocket workflow that ships, and lives on after bad graphs."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pytest
from hosts import ROOT, find_hosts, python_of, version

HOSTS = [h for h in find_hosts() if python_of(h).exists()]
WORKFLOW = ROOT / "workflows" / "api" / "pocket_quickstart.json"


class Server:
    """One ComfyUI on 127.0.0.1 with a base directory of its own."""

    def __init__(self, host: Path, base: Path):
        (base / "custom_nodes").mkdir()
        (base / "custom_nodes" / "escdiff").symlink_to(ROOT)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.base, self.log = base, (base / "log.txt").open("w+")
        self.process = subprocess.Popen(
            [str(python_of(host)), "main.py", "--cpu", "--base-directory", str(base), "--listen", "127.0.0.1",
             "--port", str(self.port), "--disable-api-nodes", "--preview-method", "none", "--database-url", "sqlite:///:memory:"],
            cwd=host, stdout=self.log, stderr=subprocess.STDOUT)
        for _ in range(240):
            try:
                self.get("/system_stats")
                return
            except OSError:
                assert self.process.poll() is None, self.said()
                time.sleep(0.5)
        raise AssertionError(self.said())

    def said(self) -> str:
        return Path(self.log.name).read_text()[-4000:]

    def get(self, path: str):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
            return json.load(answer)

    def run(self, graph: dict, seconds: float = 600) -> dict:
        """Queue ``graph`` and return its history entry; a graph that the server refuses comes back as ``{"refused": …}``."""
        number = str(uuid.uuid4())
        body = json.dumps({"prompt": graph, "client_id": "test", "prompt_id": number}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/prompt", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                number = json.load(answer)["prompt_id"]
        except urllib.error.HTTPError as error:
            return {"refused": json.load(error)}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            history = self.get(f"/history/{number}")
            if number in history:
                return history[number]
            time.sleep(0.5)
        raise AssertionError("no answer in time: " + self.said())

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


@pytest.fixture(scope="module", params=HOSTS or [None], ids=lambda h: version(h) if h else "no-host")
def server(request, tmp_path_factory):
    if request.param is None:
        pytest.skip("NO COMFYUI FOUND: no workflow was run; set COMFYUI_PATH or put one at ~/comfy/ComfyUI")
    running = Server(request.param, tmp_path_factory.mktemp(f"server-{version(request.param)}"))
    yield running
    running.stop()


def workflow(**changes) -> dict:
    """The shipped workflow, with quick settings; ``changes`` are ``node__input=value``."""
    graph = json.loads(WORKFLOW.read_text())
    quick = {"learn_shape__steps": 2, "learn_appearance__steps": 2, "sampler__steps": 2, "latent__batch_size": 1}
    for place, value in {**quick, **changes}.items():
        node, name = place.split("__")
        graph[node]["inputs"][name] = value
    return graph


def error_of(entry: dict) -> str:
    return next(m[1]["exception_message"] for m in entry["status"]["messages"] if m[0] == "execution_error")


@pytest.mark.slow
def test_the_pocket_workflow_gives_pictures(server):
    entry = server.run(workflow())
    assert entry["status"]["status_str"] == "success", entry["status"]
    pictures = entry["outputs"]["save"]["images"]
    assert len(pictures) == 1 and (server.base / "output" / pictures[0]["filename"]).is_file()
    assert len(list((server.base / "user").rglob("cache/*.safetensors"))) == 2, "both attributes are kept for the next time"


@pytest.mark.slow
@pytest.mark.parametrize("changes, sentence", [
    ({"mix__shape": ["learn_appearance", 0]}, "an attribute of kind 'appearance' was given as shape"),
    ({"learn_shape__recipe": "escdiff-appearance"}, "learns appearance, the filter before it was for shape"),
    ({"learn_shape__mask": ["appearance_mask", 0]}, "mask"),
], ids=["wrong kind", "wrong recipe", "wrong mask"])
def test_a_bad_graph_is_one_sentence_and_the_server_lives_on(server, changes, sentence):
    graph = workflow(**{k: v for k, v in changes.items() if "mask" not in k})
    if "learn_shape__mask" in changes:
        graph["appearance_mask"] = {"class_type": "SolidMask", "inputs": {"value": 0.5, "width": 96, "height": 64}}
        graph["learn_shape"]["inputs"]["mask"] = ["appearance_mask", 0]
    entry = server.run(graph)
    message = error_of(entry)
    assert sentence in message and message.strip().count("\n") == 0
    assert server.get("/system_stats")["system"]


@pytest.mark.slow
def test_a_table_of_jobs_runs_on_a_real_server(server, tmp_path, capsys):
    from escdiff_core.cli import main

    (tmp_path / "quick.json").write_text(json.dumps(workflow()))
    (tmp_path / "jobs.csv").write_text("name,sampler.seed,mix.prompt\nfirst,1,a *m\nsecond,2,a *m with *a appearance\n")
    command = ["queue", "--server", f"http://127.0.0.1:{server.port}", "--workflow", str(tmp_path / "quick.json"),
               "--table", str(tmp_path / "jobs.csv"), "--out", str(tmp_path / "out")]
    assert main(command) == 0, capsys.readouterr()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["first_0.png", "report.json", "second_0.png"]
    before = (tmp_path / "out" / "first_0.png").stat().st_mtime_ns
    assert main(command) == 0
    assert (tmp_path / "out" / "first_0.png").stat().st_mtime_ns == before, "what is done is not done again"
