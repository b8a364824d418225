"""Shared fixtures: no network, and real ComfyUIs for the host tests, which skip loudly where there is none."""

import json
import socket
from pathlib import Path

import pytest
from fake_comfy import FakeComfy, png
from hosts import find_hosts, python_of, version
from model_zoo import write_host_models
from queue_room import GRAPH

HOSTS = [h for h in find_hosts() if python_of(h).exists()]
NONE = "NO COMFYUI FOUND: nothing about the host is tested; set COMFYUI_PATH or put one at ~/comfy/ComfyUI"


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


@pytest.fixture(scope="session", params=HOSTS or [None], ids=lambda h: version(h) if h else "no-host")
def host(request) -> Path:
    """The folder of each ComfyUI on this machine in turn."""
    return request.param or pytest.skip(NONE)


@pytest.fixture(scope="session")
def sd15_models(tmp_path_factory) -> Path:
    """Random SD 1.5 files in ComfyUI's folders, made once."""
    return write_host_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def server(host, sd15_models, tmp_path_factory):
    """A running server of each host."""
    from host_server import Server

    running = Server(host, tmp_path_factory.mktemp(f"server-{version(host)}"), sd15_models)
    yield running
    running.stop()
