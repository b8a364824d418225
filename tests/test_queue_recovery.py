"""A batch whose servers restart, lose jobs or are shared: nothing is lost, and nothing is drawn twice."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_comfy import FakeComfy, answer
from queue_room import QUICK, shades, start, table, told, wait_for

from escdiff_core.cli import main
from escdiff_core.queue.worker import MOST_LOSSES

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("talks", [False, True], ids=["polling", "websocket"])
def test_a_restart_in_the_middle_loses_nothing(room, comfy, talks):
    fake = comfy(talks=talks)
    fake.hold = {20, 30}
    table(room, "name,Sampler.seed", "a,10", "b,20", "c,30")
    thread = threading.Thread(target=start, args=(room, fake))
    thread.start()
    wait_for(lambda: (room / "out" / "a_1.png").exists() and len(fake.prompts) >= 2)
    fake.talks = False
    fake.stop()
    time.sleep(0.2)
    fake.talks, fake.hold = talks, set()
    fake.start()
    thread.join(30)
    assert [shades(room, n) for n in "abc"] == [[10, 11], [20, 21], [30, 31]]
    seeds = [p["prompt"]["3"]["inputs"]["seed"] for p in fake.prompts]
    assert seeds.count(10) == 1 and seeds.count(20) == 2, (
        "what was lost is submitted again, what was done is not"
    )
    assert len({p["prompt_id"] for p in fake.prompts}) == len(fake.prompts)


@pytest.mark.parametrize("talks", [False, True], ids=["polling", "websocket"])
def test_a_job_that_a_person_cancels_is_not_drawn(room, comfy, talks):
    fake, lines = comfy(talks=talks), []
    fake.hold = {10, 20}
    table(room, "name,Sampler.seed", "a,10", "b,20", "c,30")
    thread = threading.Thread(target=start, args=(room, fake), kwargs={"say": lines.append})
    thread.start()
    wait_for(lambda: len(fake.prompts) == 2)
    fake.cancel(20)                          # waits behind the other
    fake.cancel(10)                          # runs
    fake.hold = set()
    thread.join(20)
    assert sorted(p["prompt"]["3"]["inputs"]["seed"] for p in fake.prompts) == [10, 20, 30], (
        "nothing is submitted again"
    )
    assert shades(room, "c") == [30, 31] and not shades(room, "a") and not shades(room, "b")
    entries = json.loads((room / "out" / "report.json").read_text())["jobs"]
    assert {name: e["status"]
            for name, e in entries.items()} == {"a": "cancelled", "b": "cancelled", "c": "done"}
    assert any(line.startswith("b: cancelled: taken off the server's queue") for line in lines), lines
    assert any(line.startswith("a: cancelled: stopped on the server") for line in lines), lines
    start(room, fake)
    assert [shades(room, n) for n in "ab"] == [[10, 11], [20, 21]], "when the command is run again, they are"


def test_a_cancelled_job_is_told_from_a_lost_one_after_the_line_dropped(room, comfy):
    fake, lines = comfy(), []
    fake.hold = {20, 30}
    table(room, "name,Sampler.seed", "a,10", "b,20", "c,30")
    thread = threading.Thread(target=start, args=(room, fake), kwargs={"say": lines.append}, daemon=True)
    thread.start()
    wait_for(lambda: len(fake.prompts) == 3)
    jobs = fake.jobs
    fake.stop()
    time.sleep(0.2)
    fake.start(jobs)                         # the same server: it still knows what it drew
    fake.cancel(30)
    fake.hold = set()
    thread.join(20)
    assert shades(room, "b") == [20, 21] and not shades(room, "c") and len(fake.prompts) == 3
    assert any(line.startswith("c: cancelled: ") for line in lines), lines


def test_a_job_that_is_always_lost_is_given_up(room, comfy, monkeypatch):
    fake = comfy()

    restarts = []

    def forgetful(self, request):            # every job brings it down
        away = len(restarts) < len(self.prompts)
        restarts.extend([1] * away)
        answer(request, {"queue_running": [], "queue_pending": []}, 503 if away else 200)

    monkeypatch.setattr(FakeComfy, "get", forgetful)
    table(room, "Sampler.seed", "1")
    entry = told(start(room, fake))["000"]
    assert entry["status"] == "failed" and f"given up after {MOST_LOSSES} attempts" in entry["error"]
    assert len(fake.prompts) == MOST_LOSSES


def test_two_servers_share_the_jobs(room, comfy):
    fast, slow = comfy(), comfy()
    fast.hold = slow.hold = set(range(0, 80, 10))
    table(room, "Sampler.seed", *map(str, sorted(fast.hold)))
    report = []
    thread = threading.Thread(target=lambda: report.append(start(room, fast, slow)))
    thread.start()
    wait_for(lambda: fast.prompts and slow.prompts)
    fast.hold = set()
    wait_for(lambda: len(fast.prompts) >= 6)
    slow.hold = set()
    thread.join(30)
    entries = told(report[0])
    assert len(fast.prompts) + len(slow.prompts) == 8 and len(slow.prompts) <= 2, (
        "one in flight, one behind it"
    )
    assert {e["status"] for e in entries.values()} == {"done"} and len(
        {e["server"] for e in entries.values()}
    ) == 2


def test_another_server_takes_over(room, comfy):
    lost, other = comfy(), comfy()
    lost.hold = other.hold = {0, 10, 20, 30}
    table(room, "Sampler.seed", *map(str, sorted(lost.hold)))
    report = []
    thread = threading.Thread(
        target=lambda: report.append(start(room, lost, other, pace=replace(QUICK, patience=0.1)))
    )
    thread.start()
    wait_for(lambda: lost.prompts and other.prompts)
    lost.stop()
    other.hold = set()
    thread.join(30)
    entries = told(report[0])
    assert {(e["status"], e["server"]) for e in entries.values()} == {("done", f"127.0.0.1:{other.port}")}
    lost.start()


def test_jobs_without_a_server_are_reported(room, comfy):
    fake = comfy()
    table(room, "Sampler.seed", "1", "2")
    fake.stop()
    entries = told(start(room, fake, pace=replace(QUICK, patience=0.05)))
    fake.start()
    assert [e["status"] for e in entries.values()] == ["failed"] * 2
    assert f"no ComfyUI answers at 127.0.0.1:{fake.port}" in entries["000"]["error"]


def test_two_commands_in_one_folder_do_not_draw_twice(room, comfy, capsys):
    fake = comfy()
    fake.hold = {1}
    command = [
        "queue", "--server", fake.url, "--workflow",
        str(room / "flow.json"), "--table",
        str(table(room, "3.seed", "1")), "--out",
        str(room / "out")
    ]
    first = subprocess.Popen(
        [sys.executable, "-m", "escdiff_core", *command], cwd=ROOT, stdout=subprocess.PIPE
    )
    wait_for(lambda: fake.prompts)
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"escdiff: another queue command (process {first.pid} on ") and "--out" in said, (
        said
    )
    fake.hold = set()
    assert first.wait(20) == 0 and len(fake.prompts) == 1
    assert main(command) == 0 and len(fake.prompts) == 1, "the folder is free again, and its jobs are done"
