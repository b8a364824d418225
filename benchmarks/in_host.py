"""Run a benchmark's own file again inside a real ComfyUI, with the pack in it, and take what it found."""

import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path


def found_inside(script: Path, host: Path, fill: Callable[[Path], None] = lambda models: None) -> dict:
    """What ``script HOST BASE PACK`` prints behind ``FOUND``, run by the Python of ``host``, the folder of a
    ComfyUI that ``tests/hosts.py`` has prepared.

    ``fill`` puts files into the folder of models. Exits with what the script said when it finds nothing.
    """
    from host_server import prepare_base
    from hosts import python_of

    with tempfile.TemporaryDirectory() as folder:
        base, models = Path(folder) / "base", Path(folder) / "models"
        base.mkdir()
        models.mkdir()
        fill(models)
        prepare_base(base, models)
        command = [python_of(host), script, host, base, base / "custom_nodes" / "escdiff"]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    answer = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    if not answer:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(answer[0].removeprefix("FOUND "))
