"""What mixing costs inside ComfyUI: ``python benchmarks/host_mixing.py`` (alone on the machine).

For every ComfyUI that ``tests/hosts.py`` has prepared, the stock KSampler draws with and without attributes
in interleaved pairs, in one process. Writes ``host_mixing.md``.
"""

import datetime
import json
import platform
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
AIM, PAIRS, STEPS = 1.03, 9, 20


def inside() -> None:
    """Runs in a host's environment, started by :func:`main` with ``HOST BASE PACK``."""
    import host_probe_cost as cost
    from host_probe import load_pack
    from host_probe_base import core, found, node, torch

    load_pack()
    with torch.inference_mode():
        model, clip, vae, encoder = node("ESCDiffLoadPocketModel")
        names, made = core("nodes.reference").example_names(), {}
        for kind, name in (("shape", names[0]), ("appearance", names[-1])):
            image, mask = node("ESCDiffExampleReference", example=name)
            made[kind] = node("ESCDiffLearnAttribute", model=model, clip=clip, vae=vae, encoder=encoder,
                              image=image, mask=mask, kind=kind, steps=2, seed=0, describe="",
                              batch_size=2)[0]
        cost.timing(model, clip, made, PAIRS, STEPS, time.perf_counter)
    print("FOUND " + json.dumps(found))


def main() -> None:
    from hosts import find_hosts, version
    from in_host import found_inside

    lines = [
        "# What mixing costs inside ComfyUI", "",
        f"`python benchmarks/host_mixing.py`, {datetime.date.today().isoformat()}, "
        f"{platform.processor() or platform.machine()}, `--cpu`: the pocket model, two pictures of "
        f"{STEPS} steps, guidance 3; median of {PAIRS} interleaved pairs. Aim: at most {AIM}.", "",
        "| ComfyUI | plain, s | mixed, s | mixed / plain |", "|---|---|---|---|"
    ]
    for host in find_hosts():
        found = found_inside(Path(__file__), host)
        seconds = found["sampling_seconds"]
        lines.append(
            f"| {version(host)} | {seconds['plain']:.2f} | {seconds['mixed']:.2f} | "
            f"{found['mixing_ratio']:.3f} |"
        )
    Path(__file__).with_suffix(".md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    inside() if len(sys.argv) > 1 else main()
