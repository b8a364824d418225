"""Masks that are found on photographs: ``python benchmarks/photographs.py FOLDER [--out FILE]``

FOLDER holds index.json, a list of {"file", "mask", "ground"}: photographs, the mask of each (white is the
subject), and what the subject stands on, "plain" or anything else. A mask is right from an IoU of 0.7 with
the known one on. Each picture is read at 512 pixels, as a reference for SD 1.5 is.
"""

import argparse
import datetime
import json
import platform
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from escdiff_core.pictures import save_text
from escdiff_core.reference import load_reference
from escdiff_core.reference.decode import read_mask
from escdiff_core.reference.photograph import SURE

RIGHT, SIZE = 0.7, 512


def iou(found: np.ndarray, known: np.ndarray) -> float:
    """Of a mask with the known one, (h, w) of any two sizes."""
    known = torch.nn.functional.interpolate(torch.from_numpy(known)[None, None], found.shape, mode="area")
    found, known = found > 0.5, known[0, 0].numpy() > 0.5
    return float((found & known).sum() / (found | known).sum())


def measure(folder: Path, entry: dict) -> dict:
    """What is found on one picture: its IoU, None where nothing is for sure, and what the log says."""
    reference = load_reference(folder / entry["file"], native_size=SIZE)
    found = None if reference.mask is None else iou(reference.mask, read_mask(folder / entry["mask"]))
    return {**entry, "iou": found, "note": reference.note}


def table(rows: list[dict]) -> list[str]:
    lines = ["| ground | pictures | right | refused | silently wrong | mean IoU of what was found |",
             "|---|---|---|---|---|---|"]
    for ground in ("plain", "other", "all"):
        of_it = [r for r in rows if ground == "all" or (r["ground"] == "plain") == (ground == "plain")]
        found = [r["iou"] for r in of_it if r["iou"] is not None]
        counts = sum(i >= RIGHT for i in found), len(of_it) - len(found), sum(i < RIGHT for i in found)
        shares = " | ".join(f"{n} ({n / max(len(of_it), 1):.0%})" for n in counts)
        lines.append(f"| {ground} | {len(of_it)} | {shares} | {np.mean(found):.2f} |")
    wrong = [f"{r['file']} ({r['iou']:.2f})" for r in rows if r["iou"] is not None and r["iou"] < RIGHT]
    return [*lines, "", f"Silently wrong: {', '.join(wrong) or 'none'}."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    entries = json.loads((options.folder / "index.json").read_text())
    rows = [measure(options.folder, entry) for entry in entries]
    text = "\n".join([
        "# Masks found on photographs", "",
        f"`python benchmarks/photographs.py FOLDER`, {datetime.date.today()}, {platform.machine()}. "
        f"{len(rows)} photographs with known masks, confidence of at least {SURE:.2f} asked for.", "",
        *table(rows), ""
    ])
    print(text)
    if options.out:
        save_text(text, options.out)


if __name__ == "__main__":
    main()
