"""What learning costs beside its steps, inside ComfyUI on a CPU: ``python benchmarks/overhead.py``.

SD 1.5 at full size with random weights, through the stock loader of the newest ComfyUI that
``tests/hosts.py`` has prepared. Each figure stands beside its floor: the time that hashing, copying or
writing as many bytes takes at least, measured in the same run. Learning itself is one step on small pictures.
Writes ``overhead.md``.
"""

import datetime
import hashlib
import json
import platform
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
SIZE, CHECKPOINT = 128, "full_size.safetensors"


def seconds(work) -> tuple[float, object]:
    began = time.perf_counter()
    answer = work()
    return time.perf_counter() - began, answer


def inside() -> None:
    """Runs in a host's environment, started by :func:`main` with ``HOST BASE PACK``."""
    from host_probe import load_pack
    from host_probe_base import core, few_views, node, stock, torch

    load_pack()
    few_views()
    families = core("escdiff_core.families").FAMILIES
    families["sd15"] = replace(families["sd15"], native_size=SIZE)
    export, digests = core("nodes.host.export"), core("nodes.host.digests")
    load = core("escdiff_core.families.load")
    built, usual = [], load.build_modules
    load.build_modules = lambda *given: built.append(1) or usual(*given)
    rows = []

    def row(what: str, took: float, floor: float, size: int) -> None:
        rows.append({"what": what, "seconds": took, "floor": floor, "bytes": size})

    with torch.inference_mode():
        model, clip, vae = stock("CheckpointLoaderSimple", "load_checkpoint", ckpt_name=CHECKPOINT)
        parts = [m.state_dict() for m in (model.model.diffusion_model, clip.cond_stage_model,
                                          vae.first_stage_model)]
        tensors = [t for part in parts for t in part.values() if t.is_floating_point()]
        count = sum(t.numel() for t in tensors)

        def hashed() -> None:
            digest = hashlib.sha256()
            for tensor in tensors:
                digest.update(tensor.half().contiguous().numpy())

        def copied() -> None:
            copies = [tensor.to(torch.float32, copy=True) for tensor in tensors]    # kept, as a model is
            copies.clear()

        hashed()  # weights that the host has not touched yet are still on the disk
        to_hash, to_copy = (min(seconds(work)[0] for _ in range(3)) for work in (hashed, copied))
        row("first look at a checkpoint: the names of its weights",
            seconds(lambda: digests.source_digests(model, clip, vae))[0], to_hash, 2 * count)
        row("second look", seconds(lambda: digests.source_digests(model, clip, vae))[0], 0.0, 0)
        copies = [seconds(lambda: export.private_model(model, clip, vae))[0] for _ in range(4)]
        row("private copy, the first of a process", copies[0], to_copy, 4 * count)
        row("private copy, the least of three more", min(copies[1:]), to_copy, 4 * count)
        picture = torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(4))
        mask = torch.zeros(1, SIZE, SIZE)
        mask[:, 30:100, 30:100] = 1
        given = {"model": model, "clip": clip, "vae": vae, "image": picture, "mask": mask, "class_word": "",
                 "recipe": "recipe's own", "steps": 1, "seed": 1, "describe": "", "batch_size": 1,
                 "preview_every": 0}
        before = len(built)
        took, (made, *_) = seconds(lambda: node("ESCDiffLearnShape", **given))
        row("learning of one step, not in the cache", took, to_copy, 4 * count)
        learned = len(built)
        took, (again, *_) = seconds(lambda: node("ESCDiffLearnShape", **given))
        row("the same, found in the cache", took, 0.0, 0)
        hit = {"modules built by learning": learned - before, "modules built by a hit": len(built) - learned}
        assert all(torch.equal(t, again.delta[n]) for n, t in made.delta.items())
        size = sum(t.numel() * 2 for t in made.delta.values())
        with tempfile.TemporaryDirectory() as folder:
            raw = torch.zeros(size, dtype=torch.uint8).numpy().tobytes()
            floor = seconds(lambda: (Path(folder) / "raw").write_bytes(raw))[0]
            row("saving the attribute", seconds(lambda: made.save(Path(folder) / "made.safetensors"))[0],
                floor, size)
    print("FOUND " + json.dumps({"rows": rows, **hit}))


def main() -> None:
    from family_zoo import full_config, random_checkpoint
    from hosts import find_hosts, newest, python_of, version
    from in_host import found_inside

    if not any(python_of(host).exists() for host in find_hosts()):
        raise SystemExit("no ComfyUI is prepared; run tests/hosts.py first")
    host = newest()

    def fill(models: Path) -> None:
        (models / "checkpoints").mkdir()
        random_checkpoint(models / "checkpoints" / CHECKPOINT, full_config("sd15"))

    found = found_inside(Path(__file__), host, fill)
    lines = [
        "# What learning costs beside its steps", "",
        f"`python benchmarks/overhead.py`, {datetime.date.today().isoformat()}, "
        f"{platform.processor() or platform.machine()}, ComfyUI {version(host)} with `--cpu`: SD 1.5 at full "
        f"size, random weights, pictures of {SIZE} pixels, one step. The floor is the time that hashing, "
        "copying or writing as many bytes takes in the same run, alone.", "",
        "| | seconds | floor | of the floor | GB |", "|---|---|---|---|---|"
    ]
    for one in found["rows"]:
        ratio = f"{one['seconds'] / one['floor']:.2f}" if one["floor"] else ""
        lines.append(f"| {one['what']} | {one['seconds']:.2f} | {one['floor']:.2f} | {ratio} | "
                     f"{one['bytes'] / 1e9:.2f} |")
    lines += ["", f"Models built by the learning: {found['modules built by learning']}; by the hit: "
              f"{found['modules built by a hit']}.", ""]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    inside() if len(sys.argv) > 1 else main()
