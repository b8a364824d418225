"""A batch on fake ComfyUI servers: how a table is read, what is sent, what is kept, what is reported."""

import hashlib
import json
import threading
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from fake_comfy import FakeComfy, answer
from queue_room import GRAPH, QUICK, shades, start, table, told, wait_for

from escdiff_core.cli import main
from escdiff_core.queue import follow, load_workflow, read_table, run

ROOT = Path(__file__).resolve().parent.parent


def test_a_table_is_typed_after_the_workflow(room):
    file = table(room, "name,Sampler.seed,3.cfg,Sampler.tiled,Prompt 1.5.text,Reference.image",
                 'one,7,2,TRUE,2024,cat.png', 'two,,"1e1",false,"a red, *m",same.png',
                 ',,,,"""""",old.png [input]')
    first, second, third = read_table(file, GRAPH)
    assert [first.name, second.name, third.name] == ["one", "two", "002"]
    inputs = first.graph["3"]["inputs"]
    assert (inputs["seed"], inputs["cfg"], inputs["tiled"], inputs["positive"]) == (7, 2, True, ["2", 0])
    assert first.graph["2"]["inputs"]["text"] == "2024", "text stays text"
    assert second.graph["3"]["inputs"]["seed"] == 0, "an empty cell leaves the workflow's value"
    assert second.graph["3"]["inputs"]["cfg"] == 10.0 and second.graph["2"]["inputs"]["text"] == "a red, *m"
    assert third.graph["2"]["inputs"]["text"] == ""
    assert third.graph["1"]["inputs"]["image"] == "old.png [input]" and not third.pictures, (
        "lies on the server"
    )
    assert first.graph["1"] == second.graph["1"] and first.graph["1"]["inputs"]["image"].startswith(
        "escdiff_"
    )
    assert first.digest != second.digest and GRAPH["3"]["inputs"]["seed"] == 0


def test_a_spreadsheets_table_is_read_too(room):
    (room / "jobs.csv").write_bytes("\ufeffname;Sampler.cfg;2.text\r\na;1.5;one, two\r\n;;\r\n".encode())
    (job,) = read_table(room / "jobs.csv", GRAPH)
    assert job.name == "a" and job.graph["3"]["inputs"]["cfg"] == 1.5 and job.graph["2"]["inputs"][
        "text"] == "one, two"


def test_the_workflow_that_ships_can_be_queued(room):
    graph = load_workflow(ROOT / "example_workflows" / "api" / "pocket_quickstart.json")
    (job,) = read_table(
        table(room, "KSampler.seed,Mix.prompt,shape_picture.example", "3,a *m,shape: star"), graph
    )
    assert (
        job.graph["sampler"]["inputs"]["seed"] == 3
        and job.graph["shape_picture"]["inputs"]["example"] == "shape: star"
    )


@pytest.mark.parametrize("talks", [False, True], ids=["polling", "websocket"])
def test_jobs_are_done_and_not_done_again(room, comfy, talks):
    fake, seen, lines = comfy(seconds=0.1, talks=talks), [], []
    table(room, "name,Sampler.seed", "a,10", "b,20", "c,30")
    # with a websocket nothing but its messages tells when to look
    pace = replace(QUICK, look=60) if talks else QUICK
    fake.hold = {10} if talks else set()

    def progress(done, total):
        seen.append((done, total))
        if done % 1:                         # not before the first job has told how far it is
            fake.hold = set()

    report = start(room, fake, pace=pace, progress=progress, say=lines.append)
    assert [shades(room, n) for n in "abc"] == [[10, 11], [20, 21], [30, 31]]
    assert len(fake.prompts) == 3 and len({p["prompt_id"] for p in fake.prompts}) == 3
    entry = told(report)["b"]
    assert (entry["status"], entry["files"], entry["inputs"]) == (
        "done",
        ["b_0.png", "b_1.png"],
        {"Sampler.seed": 20},
    )
    assert len(lines) == 3 and "a: 2 pictures" in lines[0] and seen[-1] == (3, 3)
    assert any(done % 1 for done, _ in seen) == talks, "only a websocket tells how far a job is"
    assert not talks or fake.listeners == [fake.prompts[0]["client_id"]]
    (room / "out" / "b_1.png").unlink()
    table(room, "name,Sampler.seed", "a,10", "b,20", "c,40", "d,50")
    start(room, fake, pace=pace)
    assert sorted(p["prompt"]["3"]["inputs"]["seed"] for p in fake.prompts[3:]) == [20, 40, 50], (
        "lost, changed and new ones only"
    )
    assert shades(room, "c") == [40, 41] and len(told(report)) == 4
    start(room, fake, pace=pace)
    assert len(fake.prompts) == 6 and not list(room.rglob("*.tmp"))


def test_without_the_websocket_library_there_is_polling(room, comfy, monkeypatch):
    monkeypatch.setattr(follow, "websocket", None)
    fake = comfy(talks=True)
    table(room, "Sampler.seed", "1")
    assert told(start(room, fake))["000"]["status"] == "done" and not fake.listeners


def test_a_websocket_that_drops_is_no_loss(room, comfy):
    fake = comfy(talks=True)
    fake.hold = {1}
    table(room, "Sampler.seed", "1")
    thread = threading.Thread(
        target=start, args=(room, fake), kwargs={"pace": replace(QUICK, look=60, reconnect=60)}
    )
    thread.start()
    wait_for(lambda: fake.prompts and fake.listeners)
    fake.talks = False
    time.sleep(0.1)
    fake.hold = set()
    thread.join(20)
    assert shades(room, "000") == [1, 2] and len(fake.prompts) == 1


def test_a_picture_is_uploaded_once(room, comfy):
    fake = comfy()
    table(room, "Reference.image,4.image,Sampler.seed", "cat.png,dog.png,1", "same.png,dog.png,2",
          f"{room / 'dog.png'},cat.png,3")
    start(room, fake)
    assert len(fake.uploads) == 2 == len(set(fake.uploads)), "two contents under three names"
    sent = {
        p["prompt"]["3"]["inputs"]["seed"]: [p["prompt"][k]["inputs"]["image"] for k in "14"]
        for p in fake.prompts
    }
    cat, dog = (
        f"in/escdiff_{hashlib.sha256((room / n).read_bytes()).hexdigest()[:32]}.png"
        for n in ("cat.png", "dog.png")
    )
    assert sent == {1: [cat, dog], 2: [cat, dog], 3: [dog, cat]}, "what the server calls it"


def test_what_is_queued_is_taken_back_when_the_person_stops(room, comfy, monkeypatch):
    fake = comfy(seconds=60)
    table(room, "Sampler.seed", "1", "2", "3")

    def interrupted(alive):                  # Ctrl-C reaches the main thread while it waits for the workers
        if len(fake.prompts) == 2:
            raise KeyboardInterrupt
        return any(alive)

    monkeypatch.setattr(run, "any", interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        start(room, fake)
    assert sorted(fake.taken_back) == sorted(p["prompt_id"] for p in fake.prompts)


def test_the_command_reports_what_failed_and_does_the_rest(room, comfy, capsys):
    fake = comfy()
    file = table(room, "name,Sampler.seed,2.text,3.cfg", "good,10,a *m,5", "bad,20,explode,5",
                 "refused,30,a *m,0", "fine,40,a *m,5")
    command = [
        "queue", "--server", fake.url, fake.url + "/", "--workflow",
        str(room / "flow.json"), "--table",
        str(file), "--out",
        str(room / "out")
    ]
    assert main(command) == 1
    out = capsys.readouterr().out
    assert "2 of 4 jobs done" in out and "failed: bad: Prompt 1.5: no such token" in out
    assert "failed: refused: Sampler: Value 0 smaller than min of 1: cfg" in out
    assert shades(room, "good") == [10, 11] and shades(room, "fine") == [40, 41] and not shades(room, "bad")
    report = json.loads((room / "out" / "report.json").read_text())
    assert report["servers"] == [f"127.0.0.1:{fake.port}"], "the same server twice is one"
    assert (
        report["jobs"]["bad"]["status"] == "failed"
        and report["jobs"]["bad"]["error"] == "Prompt 1.5: no such token"
    )
    table(room, "name,Sampler.seed,2.text,3.cfg", "good,10,a *m,5", "bad,20,mended,5")
    fake.prompts.clear()
    assert (
        main(command) == 0
        and len(fake.prompts) == 1
        and "1 of 2 jobs are done already" in capsys.readouterr().out
    )


def test_outputs_that_the_server_leaves_out_are_a_failure(room, comfy, monkeypatch):
    fake, post = comfy(), FakeComfy.post
    partly = {
        "save": {
            "errors": [{"message": "Required input is missing", "details": "images"}],
            "class_type": "SaveImage",
        }
    }

    def some(self, request):
        request.wfile, wire = BytesIO(), request.wfile
        post(self, request)
        body = json.loads(request.wfile.getvalue().partition(b"\r\n\r\n")[2])
        request.wfile = wire
        answer(request, {**body, "node_errors": partly})

    monkeypatch.setattr(FakeComfy, "post", some)
    table(room, "Sampler.seed", "1")
    assert told(start(room, fake))["000"]["error"].endswith(
        "refused: SaveImage: Required input is missing: images"
    )
