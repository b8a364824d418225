"""Shared fixtures: no network, and real ComfyUIs for the host tests, which skip loudly where there is
none."""

import os

# workers share the cores; before torch is imported, and servers inherit it
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["OMP_NUM_THREADS"] = str(
        max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    )

import json
import signal
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from fake_comfy import FakeComfy, png
from hosts import find_hosts, is_between, is_newest, python_of, version
from once import for_all_workers
from queue_room import GRAPH

HOSTS = [h for h in find_hosts() if python_of(h).exists()]
NONE = (
    "COMFYUI IS NOT PREPARED: nothing about the host is tested; run tests/hosts.py, as make test does"
    if find_hosts()
    else "NO COMFYUI FOUND: nothing about the host is tested; set COMFYUI_PATH or put one at ~/comfy/ComfyUI"
)

# Servers of this process. They end before the probes begin, which come later (see below): two of each ComfyUI
# at once need more than 24 GB.
RUNNING: list = []


def pytest_collection_modifyitems(items):
    """The longest begin first: what the servers are asked, then the probes, so that the workers come to their
    ends together. What takes long and hardly knows the host is asked of the oldest and the newest alone
    (``ends``), or of the newest (``newest``)."""
    for item in items:
        if item.get_closest_marker("newest") and item.callspec.params["host"] and not is_newest(
                item.callspec.params["host"]):
            item.add_marker(pytest.mark.skip(reason="an older ComfyUI: as on the newest"))
        if item.get_closest_marker("ends") and item.callspec.params["host"] and is_between(
                item.callspec.params["host"]):
            item.add_marker(pytest.mark.skip(reason="a ComfyUI between an older and a newer: as on those"))
    items.sort(key=lambda item: ("server" not in item.fixturenames, "host" not in item.fixturenames))


def probe_of(file: Path) -> Path:
    """Where the probe of a file of tests is, if it has one."""
    return file.with_name("host_probe" + file.name.removeprefix("test_host"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """The tests of one ComfyUI's server stay together, so that it starts once; so do its probes', and others
    of a file.

    A scheduler of our own, because the groups of pytest-xdist 3.8 do not reach pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByHost(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            parameters = nodeid.partition("[")[2].rstrip("]").split("-")
            host = next((version(h) for h in HOSTS if version(h) in parameters), "")
            if not host:
                return file
            return f"probes {host}" if probe_of(config.rootpath / file).is_file() else host

    return ByHost(config, log)


@pytest.fixture
def no_network(monkeypatch):
    """Every request to the network fails the test."""
    def refuse(*args, **kwargs):
        raise AssertionError("a network request was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def comfy():
    """Starts fake ComfyUIs, which end with the test."""
    running = []

    def start(**options) -> FakeComfy:
        running.append(FakeComfy(**options))
        return running[-1]

    yield start
    for fake in running:
        fake.talks = False
        fake.stop()


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A folder with a workflow, pictures, and a table; the current folder is another one."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "flow.json").write_text(json.dumps(GRAPH))
    for name, shade in (("cat.png", 10), ("same.png", 10), ("dog.png", 20)):
        (tmp_path / name).write_bytes(png(shade))
    (tmp_path / "text.png").write_text("no picture")
    return tmp_path


@pytest.fixture(scope="module")
def cli_room(tmp_path_factory):
    """A folder with what the command line needs, and with what could be mistaken for it."""
    from cli_room import fill  # brings torch

    return fill(tmp_path_factory.mktemp("room"))


@pytest.fixture
def in_cli_room(cli_room, monkeypatch):
    monkeypatch.chdir(cli_room)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint as small as they get, with random weights."""
    from method_zoo import write_tiny  # brings torch

    return write_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The tiny model with random weights, for files that make no other."""
    from method_zoo import tiny_model  # brings torch

    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture
def in_fp32(monkeypatch):
    """Learning computes in the precision that every machine has, for tests that compare its numbers."""
    from escdiff_core.learning import precision

    monkeypatch.setattr(precision, "is_fast_in_bf16", lambda device: False)


@pytest.fixture
def quick_recipes(monkeypatch):
    """Every recipe learns in no time."""
    from escdiff_core.learning.recipes import RECIPES

    for name, recipe in RECIPES.items():
        monkeypatch.setitem(RECIPES, name, replace(recipe, batch_size=2, views=2, steps=2, rank=2))


@pytest.fixture(scope="session", params=HOSTS or [None], ids=lambda h: version(h) if h else "no-host")
def host(request) -> Path:
    """The folder of each ComfyUI on this machine in turn."""
    return request.param or pytest.skip(NONE)


@pytest.fixture(scope="session")
def sd15_models(tmp_path_factory) -> Path:
    """Random SD 1.5 files in ComfyUI's folders."""
    from model_zoo import write_host_models  # brings torch, which whoever hands out the tests does without

    return for_all_workers(tmp_path_factory, "sd15-models", write_host_models)


@pytest.fixture(scope="session")
def keeper(host, tmp_path_factory):
    """Each host, loaded once: call it with a probe and a base directory for what the probe says."""
    while RUNNING:
        RUNNING.pop().stop()
    command = [
        python_of(host),
        Path(__file__).with_name("host_keeper.py"),
        host,
        tmp_path_factory.mktemp("keeper"),
    ]
    with subprocess.Popen(
        [str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        def run(probe: Path, base: Path) -> str:
            said = base / "said.txt"
            process.stdin.write(
                json.dumps([str(p) for p in (said, probe, base, base / "custom_nodes" / "escdiff")]) + "\n"
            )
            process.stdin.flush()
            status = process.stdout.readline().strip()
            assert status == "0", said.read_text()[-6000:] if said.exists() else "ComfyUI could not be loaded"
            return said.read_text()

        yield run
        process.stdin.close()


@pytest.fixture(scope="session")
def family_models(tmp_path_factory) -> Path:
    """Checkpoints of SD 2.x and SDXL with random weights, 1 GB."""
    from family_zoo import write_family_models

    return for_all_workers(tmp_path_factory, "family-models", write_family_models)


@pytest.fixture(scope="module")
def found(request, host, keeper, tmp_path_factory) -> dict:
    """What the probe of these tests saw inside the host: host_probe_x.py of test_host_x.py, with the
    ``MODELS`` they name."""
    from host_server import prepare_base

    probe, models = probe_of(request.path), getattr(request.module, "MODELS", "sd15_models")
    base = tmp_path_factory.mktemp(f"{probe.stem}-{version(host)}")
    prepare_base(base, request.getfixturevalue(models))
    said, mark, answer = keeper(probe, base).partition("FOUND ")
    print(said[-4000:])
    assert mark, said[-6000:]
    return json.loads(answer.partition("\n")[0])


@pytest.fixture(scope="session")
def server(host, sd15_models, tmp_path_factory):
    """A running server of each host."""
    from host_server import Server

    running = Server(host, tmp_path_factory.mktemp(f"server-{version(host)}"), sd15_models)
    RUNNING.append(running)
    yield running
    running.stop()


@pytest.fixture
def ctrl_c():
    """Ctrl-C is heard, also where a shell started the tests in its background and has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
