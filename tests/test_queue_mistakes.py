"""A batch that goes wrong: a failure names its node; a wrong table, workflow or server is one sentence, and
nothing is sent."""

import json
import socket

import pytest
from fake_comfy import FakeComfy, answer
from queue_room import GRAPH, table

from escdiff_core.cli import main
from escdiff_core.queue.client import failure_of, files_of


@pytest.mark.parametrize(
    "event, data, words",
    [
        (
            "execution_error",
            {"node_id": "3", "exception_message": "out\n of memory "},
            "Sampler: out of memory",
        ),
        (
            "execution_error",
            {"node_id": "3.0.1", "node_type": "Inner", "exception_type": "KeyError"},
            "Inner: KeyError",
        ),
        ("execution_interrupted", {"node_id": "3"}, "Sampler: stopped on the server"),
        ("execution_start", {}, "see its log"),
    ],
    ids=["error", "inside a subgraph", "interrupted", "no reason"],
)
def test_a_failure_names_the_node(event, data, words):
    assert words in failure_of(GRAPH, {"status": {"status_str": "error", "messages": [[event, data]]}})
    assert failure_of(GRAPH, {"status": None}) == ""


MISTAKES = {
    "no table": (None, "jobs.csv does not exist"),
    "empty table": ([], "has no rows"),
    "only a header": (["Sampler.seed"], "has no rows"),
    "latin-1": (b"2.text\n\xe9\n", "UTF-8"),
    "no dot": (["seed", "1"], "not of the form node.input"),
    "unknown node": (["Simpler.seed", "1"], "no node of the workflow is called so; nodes: 1 (Reference)"),
    "unknown input": (["Sampler.seeds", "1"], "has no input 'seeds'; inputs: seed, cfg, tiled"),
    "two nodes": (["Twin.text", "1"], "use one of the keys 7, 8"),
    "wired": (["Sampler.positive", "1"], "wired to node 'Prompt 1.5'"),
    "column twice": (["2.text,2.text", "a,b"], "'2.text' more than once"),
    "input twice": (["3.seed,Sampler.seed", "1,2"], "another column sets already"),
    "name twice": (["name,3.seed", "a,1", "A,2"], "line 3: name 'A' is taken by line 2"),
    "name is a path": (["name,3.seed", "../a,1"], "cannot be part of a file name"),
    "comma": (["3.seed,2.text", "1,red, blue"], "line 2: 3 cells under 2 columns; put quotation marks"),
    "no number": (["3.seed", "many"], "line 2: 3.seed takes a number (such as 0), not 'many'"),
    "bool for a number": (["3.seed", "true"], "takes a number"),
    "no bool": (["3.tiled", "yes"], "takes true or false"),
    "no picture": (["1.image", "bird.png"], "there is no picture"),
    "broken picture": (["1.image", "text.png"], "not a picture that can be read"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_wrong_table_is_one_sentence_and_nothing_is_sent(room, comfy, capsys, case):
    lines, words = MISTAKES[case]
    if isinstance(lines, bytes):
        (room / "jobs.csv").write_bytes(lines)
    elif lines is not None:
        table(room, *lines)
    fake = comfy()
    said(capsys, words, "--server", fake.url, "--workflow", room / "flow.json", "--table", room / "jobs.csv",
         "--out", room / "out")
    assert not fake.prompts and not fake.uploads and not (room / "out").exists()


@pytest.mark.parametrize("content, words", [
    (None, "does not exist"), ("{", "is not JSON"), ({"nodes": [], "links": []}, "is in the UI format"),
    ({"a": {"inputs": {}}}, "Export (API)"), ([], "Export (API)"), ({}, "Export (API)"),
], ids=["missing", "broken", "UI format", "no class", "list", "empty"])
def test_a_wrong_workflow_is_one_sentence(room, capsys, content, words):
    if content is not None:
        (room / "wrong.json").write_text(content if isinstance(content, str) else json.dumps(content))
    said(capsys, words, "--server", "127.0.0.1:1", "--workflow", room / "wrong.json",
         "--table", table(room, "3.seed", "1"), "--out", room / "out")


def test_a_wrong_server_or_folder_is_one_sentence(room, comfy, capsys, monkeypatch):
    fake, rest = (
        comfy(),
        ["--workflow", room / "flow.json", "--table", table(room, "3.seed", "1"), "--out", room / "out"],
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{free.getsockname()[1]}"
    said(capsys, f"no ComfyUI answers at {closed} (no connection); start ComfyUI", "--server", fake.url,
         closed, *rest)
    said(capsys, "is no address", "--server", "ftp://host", *rest)
    said(capsys, "--patience", "--server", fake.url, *rest, "--patience", "-1")
    (room / "out").write_text("in the way")
    said(capsys, "give a folder", "--server", fake.url, *rest)
    (room / "out").unlink()
    (room / "out").mkdir()
    (room / "out" / "report.json").write_text('{"prompt": "of another command"}')
    said(capsys, "no report of queue", "--server", fake.url, *rest)
    assert not fake.prompts
    monkeypatch.setattr(FakeComfy, "get", lambda _self, request: answer(request, b"<html>a web page</html>"))
    said(capsys, "is no ComfyUI", "--server", fake.url, *rest)


def said(capsys, words: str, *options) -> None:
    """The command says one line with these words, and leaves with 2."""
    assert main(["queue", *map(str, options)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("escdiff: ") and words in lines[0], lines


def test_previews_count_only_where_nothing_is_saved():
    def image(name, kind):
        return {"images": [{"filename": name, "type": kind}], "animated": [False]}

    outputs = {
        "save": image("b", "output"),
        "x": image("c", "output"),
        "3": image("a", "temp"),
        "2": {"text": ["hello"]},
    }
    assert [i["filename"] for i in files_of(GRAPH, {"outputs": outputs})] == ["b", "c"]
    assert [i["filename"] for i in files_of(GRAPH, {"outputs": {"3": image("a", "temp")}})] == ["a"]
