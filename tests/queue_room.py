"""What the tests of batches queue: a workflow and tables for it."""

from pathlib import Path

GRAPH = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"},
          "_meta": {"title": "Reference"}}, "2": {
              "class_type": "CLIPTextEncode", "inputs": {"clip": ["9", 1], "text": "a *m"},
              "_meta": {"title": "Prompt 1.5"}
          }, "3": {
              "class_type": "KSampler",
              "inputs": {"positive": ["2", 0], "seed": 0, "cfg": 5.0,
                         "tiled": False}, "_meta": {"title": "Sampler"}
          }, "4": {
              "class_type": "LoadImageMask", "inputs": {"image": "mask.png", "channel": "red"},
              "_meta": {"title": "Mask"}
          }, "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "dull"}, "_meta": {"title": "Twin"}},
    "8": {"class_type": "CLIPTextEncode", "inputs": {"text": "dark"}, "_meta": {"title": "Twin"}},
    "9": {"class_type": "Loader",
          "inputs": {}}, "save": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
}


def table(room: Path, *lines: str) -> Path:
    (room / "jobs.csv").write_text("\n".join(lines) + "\n")
    return room / "jobs.csv"
