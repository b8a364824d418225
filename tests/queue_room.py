"""What the tests of batches queue: a workflow and tables for it."""

import json
import time
from pathlib import Path

from fake_comfy import FakeComfy
from PIL import Image

from escdiff_core.queue import Pace, Report, Server, load_workflow, read_table, run_jobs

GRAPH = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}, "_meta": {"title": "Reference"}},
    "2": {
        "class_type": "CLIPTextEncode",
        "inputs": {"clip": ["9", 1], "text": "a *m"},
        "_meta": {"title": "Prompt 1.5"},
    },
    "3": {
        "class_type": "KSampler",
        "inputs": {"positive": ["2", 0], "seed": 0, "cfg": 5.0, "tiled": False},
        "_meta": {"title": "Sampler"},
    },
    "4": {
        "class_type": "LoadImageMask",
        "inputs": {"image": "mask.png", "channel": "red"},
        "_meta": {"title": "Mask"},
    },
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "dull"}, "_meta": {"title": "Twin"}},
    "8": {"class_type": "CLIPTextEncode", "inputs": {"text": "dark"}, "_meta": {"title": "Twin"}},
    "9": {"class_type": "Loader", "inputs": {}},
    "save": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
}


def table(room: Path, *lines: str) -> Path:
    (room / "jobs.csv").write_text("\n".join(lines) + "\n")
    return room / "jobs.csv"


QUICK = Pace(poll=0.02, look=0.2, reconnect=0.1, retry=0.02, patience=20)


def start(room: Path, *fakes: FakeComfy, pace: Pace = QUICK, jobs=None, **options) -> Report:
    """Run the room's table; returns the report."""
    (out := room / "out").mkdir(exist_ok=True)
    report = Report(out, {})
    jobs = jobs or read_table(room / "jobs.csv", load_workflow(room / "flow.json"))
    run_jobs([j for j in jobs if not report.has(j)], [Server(f.url) for f in fakes], report, pace, **options)
    return report


def told(report: Report) -> dict:
    return json.loads(report.path.read_text())["jobs"]


def shades(room: Path, name: str) -> list[int]:
    return [Image.open(p).getpixel((0, 0)) for p in sorted((room / "out").glob(f"{name}_*.png"))]


def wait_for(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
