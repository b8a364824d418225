"""Real ComfyUI installations on this machine, each with an environment of its own; ``python tests/hosts.py``
prepares them."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".venv-hosts"
TOOLS = ENVIRONMENTS / "comfy-cli"      # others' commands for ComfyUI
# What ComfyUI's own list leaves out or leaves open: 0.8.0 imports requests, and torchaudio must find the
# torch that it was built for. 2.11.0 is the last of which there is one of each.
MORE = ["requests", "websocket-client", "torch==2.11.0", "torchaudio==2.11.0"]
# comfy-cli, and a check that no name of a ComfyUI's that the pack uses is missing there or takes other
# arguments
COMMANDS = {"comfy-cli": "comfy", "comfy-import-guard": "comfy-import-guard"}

# Set, all tests run on each host; otherwise what takes long and hardly knows the host runs on some
EVERYWHERE = bool(os.environ.get("ESCDIFF_EVERYWHERE"))


def extra(name: str) -> list[str]:
    """The packages of one of the pack's extras."""
    listed = re.search(
        rf"^{name} = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL
    )
    return re.findall('"(.+?)"', listed[1])


def find_hosts() -> list[Path]:
    """The ComfyUIs in ``COMFYUI_PATH`` (several as in PATH), else the one around the pack, else those under
    ~/comfy."""
    if os.environ.get("COMFYUI_PATH"):
        found = [Path(p).expanduser() for p in os.environ["COMFYUI_PATH"].split(os.pathsep) if p]
    elif (ROOT.parent.parent / "main.py").is_file() and ROOT.parent.name == "custom_nodes":
        found = [ROOT.parent.parent]
    else:
        found = sorted(Path("~/comfy").expanduser().glob("ComfyUI*"))
    return [p.resolve() for p in found if (p / "main.py").is_file() and (p / "comfy").is_dir()]


def version(host: Path) -> str:
    """The host's version number, from its own file."""
    found = re.search(r'__version__ = "(.+?)"', (host / "comfyui_version.py").read_text())
    return found[1] if found else "unknown"


def newest() -> Path:
    """The host with the highest version number, of those that are prepared."""
    return max([h for h in find_hosts() if python_of(h).exists()] or find_hosts(), key=_numbers)


def is_newest(host: Path) -> bool:
    """Whether ``host`` is the newest, or stands for it where ESCDIFF_EVERYWHERE is set."""
    return EVERYWHERE or host == newest()


def is_between(host: Path) -> bool:
    """Whether there are an older and a newer host: what works on both ends of a row works in it. With
    ESCDIFF_EVERYWHERE set, none is between others, and all tests run on each."""
    if EVERYWHERE:
        return False
    return min(map(_numbers, find_hosts())) < _numbers(host) < _numbers(newest())


def _numbers(host: Path) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", version(host))]


def python_of(host: Path) -> Path:
    """The interpreter of the host's environment, made by :func:`prepare`."""
    return ENVIRONMENTS / version(host) / "bin" / "python"


def prepare(host: Path) -> None:
    """Make the host's environment, or leave it as it is when its requirements are unchanged."""
    lists = [host / "requirements.txt", ROOT / "requirements.txt"]
    more = [*MORE, *extra("judge")]
    wanted = hashlib.sha256(b"".join(p.read_bytes() for p in lists) + " ".join(more).encode()).hexdigest()
    folder = ENVIRONMENTS / version(host)
    stamp = folder / ".installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"preparing an environment for ComfyUI {version(host)}", flush=True)
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
    install = [*uv, "pip", "install", "--quiet", "--python", str(python_of(host))]
    subprocess.run([*install, *more, *(a for p in lists for a in ("-r", str(p)))], check=True)
    stamp.write_text(wanted)


def tool(package: str) -> Path:
    """The command of one of COMMANDS, which may not be there."""
    return TOOLS / "bin" / COMMANDS[package]


def prepare_tools() -> None:
    """Make the environment of COMMANDS, which would not fit into a host's."""
    if all(tool(package).exists() for package in COMMANDS):
        return
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(TOOLS)], check=True)
    subprocess.run(
        [*uv, "pip", "install", "--quiet", "--python", str(TOOLS / "bin" / "python"), *COMMANDS], check=True
    )


if __name__ == "__main__":
    hosts = find_hosts()
    for each in hosts:
        prepare(each)
    if hosts:
        prepare_tools()
    if not hosts:
        print(
            "no ComfyUI found (COMFYUI_PATH, the ComfyUI around this folder, ~/comfy/ComfyUI*): the "
            "host tests will skip"
        )
