"""What the registry would publish: the archive that comfy-cli packs, what is in it, and what others' checks
say of it."""

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hosts import COMMANDS, ROOT, extra, tool
from PIL import Image

from escdiff_core.extras import PACKAGES

pytestmark = pytest.mark.slow
# Megabytes. The archive is little more than the weights, whose last bits are rounded off so that they pack.
LIMIT, LIMIT_OF_THE_REST = 36, 1.5


def command(package: str) -> str:
    if not tool(package).exists():
        pytest.skip(
            f"NO {COMMANDS[package].upper()}: it comes with the hosts' environments (python tests/hosts.py)"
        )
    return str(tool(package))


def run(*words, home: Path, path: Path = ROOT, **more) -> subprocess.CompletedProcess:
    """Run a command with a home of its own; ``path`` is where Python finds the pack."""
    env = {**os.environ, "HOME": str(home), "DO_NOT_TRACK": "1", "PYTHONPATH": str(path)}
    return subprocess.run(
        [str(w) for w in words], capture_output=True, text=True, timeout=300, env=env, **more
    )


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """The archive of the files as they are now, packed in a copy, because comfy-cli writes it beside them."""
    comfy, home = command("comfy-cli"), tmp_path_factory.mktemp("home")
    copy = tmp_path_factory.mktemp("copy")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", home=home, cwd=ROOT)
    if listed.returncode:
        pytest.skip("NO GIT REPOSITORY: comfy-cli packs what git knows")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).symlink_to(ROOT / name)
    done = [run("git", *words, home=home, cwd=copy) for words in (["init", "-q"], ["add", "-A"])]
    done.append(run(comfy, "--skip-prompt", "node", "pack", home=home, cwd=copy))
    assert not any(d.returncode for d in done), [d.stdout + d.stderr for d in done]
    return copy / "node.zip"


@pytest.fixture(scope="module")
def published(archive, tmp_path_factory) -> Path:
    """The archive as a person has it in ComfyUI's custom_nodes."""
    folder = tmp_path_factory.mktemp("comfy") / "custom_nodes" / "escdiff"
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    return folder


def test_the_archive_is_small_and_has_nothing_of_the_makers(archive):
    with zipfile.ZipFile(archive) as opened:
        sizes = {i.filename: i.compress_size for i in opened.infolist()}
    rest = sum(size for name, size in sizes.items() if not name.startswith("escdiff_core/weights/"))
    assert archive.stat().st_size <= LIMIT * 1e6 and rest <= LIMIT_OF_THE_REST * 1e6
    assert not [n for n in sizes if re.match(r"(tests|benchmarks|\.|Makefile)", n)]
    wanted = {
        "__init__.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE", "CHANGELOG.md",
        "docs/comfyui.md"
    }
    assert wanted <= set(sizes)
    folders = {name.partition("/")[0] for name in sizes if "/" in name}
    assert {"escdiff_core", "nodes", "web", "example_workflows"} <= folders
    assert {n for n in sizes if n.endswith(".safetensors")} == {
        str(p.relative_to(ROOT)) for p in (ROOT / "escdiff_core" / "weights").glob("*.safetensors")}


def imported(file: Path, top: Path) -> set[Path]:
    """The pack's own modules that ``file`` imports, anywhere in it: as the files or folders they would be."""
    found, package = set(), file.parent.relative_to(top).parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = (*package[:len(package) - node.level + 1], *(node.module or "").split("."))
            module = top.joinpath(*(p for p in parts if p))
            inside = [module / alias.name for alias in node.names]
            found |= {module} | {
                m for m in inside if (ROOT / m.relative_to(top)).with_suffix(".py").is_file()
            }
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = (
                [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            )
            found |= {top.joinpath(*name.split(".")) for name in names if name.startswith("escdiff_core")}
    return found


def test_nothing_in_the_archive_imports_what_was_left_out(published):
    files = list(published.rglob("*.py"))
    missing = {
        (str(f.relative_to(published)), str(m.relative_to(published)))
        for f in files
        for m in imported(f, published)
        if not m.with_suffix(".py").is_file() and not (m / "__init__.py").is_file() and m != published
    }
    assert len(files) > 80 and missing == set()


BARE = """
import json, sys
sys.modules.update(ot=None, matplotlib=None)
sys.path.append(sys.argv[1])
from escdiff_core.bench.references import shape_references
from escdiff_core.cli import main
from escdiff_core.learning.recipes import RECIPES
from host_small_work import few_views
shape_references(1)
few_views(RECIPES)
for words in json.load(sys.stdin):
    print("STATUS", main(words))
"""


def test_it_runs_from_the_archive_without_the_judge_s_packages(published, tmp_path):
    """Learning and mixing do without, and what needs them says so in one sentence before it begins."""
    page = Image.new("RGB", (64, 64), "white")
    page.paste("red", (16, 16, 48, 48))
    page.save(tmp_path / "square.png")
    commands = [["learn", "--kind", kind, "--reference", "square.png", "--steps", "1", "--batch-size", "1",
                 "--out", f"{kind}.safetensors"] for kind in ("shape", "appearance")]
    commands.append([
        "mix", "--shape", "shape.safetensors", "--appearance", "appearance.safetensors", "--prompt",
        "a *m with *a appearance", "--count", "1", "--out", "mixed"
    ])
    commands += [[name, "--out", "nothing"] for name in ("demo", "bench")]
    done = run(
        sys.executable, "-c", BARE, ROOT / "tests", home=tmp_path, cwd=tmp_path,
        input=json.dumps(commands), path=published
    )
    assert re.findall(r"STATUS (\d)", done.stdout) == list("00022"), done.stderr
    assert (tmp_path / "mixed" / "000.png").is_file() and not (tmp_path / "nothing").exists()
    demo, bench = done.stderr.splitlines()[-2:]
    assert demo.startswith("escdiff: demo needs the Python package POT") and demo.endswith(
        "-m pip install POT"
    )
    assert bench.startswith("escdiff: bench needs the Python packages POT and matplotlib") and bench.endswith(
        "POT matplotlib"
    )


def test_the_registry_s_own_check_passes(tmp_path):
    done = run(command("comfy-cli"), "--skip-prompt", "node", "validate", home=tmp_path, cwd=ROOT)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "passed" in said and "arning" not in said, said


def test_every_name_of_comfyui_s_that_the_pack_uses_is_there(host, published, tmp_path):
    """comfy-import-guard resolves imports of and calls to ``comfy.*`` against a ComfyUI's own files."""
    if not (host / ".git").exists():
        pytest.skip(f"{host} is not a git repository, which comfy-import-guard reads")
    (tmp_path / "ComfyUI").symlink_to(host)
    done = run(command("comfy-import-guard"), "--offline", "--cache-dir", tmp_path, "check", "--comfy-dir",
               published.parents[1], "--target", "HEAD", "--strict", home=tmp_path)
    assert done.returncode == 0 and "SAFE" in done.stdout, done.stdout + done.stderr
    assert int(re.search(r"(\d+) comfy\.\* reference", done.stdout)[1]) > 40


def test_what_must_be_added_is_short_and_the_extra_is_what_is_asked_for():
    lines = [
        line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")
    ]
    assert len(lines) <= 5 and not {name.lower() for name in PACKAGES.values()} & {
        re.split("[>=]", x)[0].lower() for x in lines
    }
    assert {re.split("[>=]", x)[0] for x in (*extra("judge"), *extra("networks"))} == set(PACKAGES.values())


@pytest.mark.parametrize("name, size", {"icon": (400, 400), "banner": (1050, 450)}.items())
def test_the_icon_and_the_banner_are_there_and_small(name, size):
    path = ROOT / "docs" / f"{name}.png"
    assert Image.open(path).size == size and path.stat().st_size <= 60_000
    assert re.search(f'^{name.capitalize()} = "https://.+/docs/{name}.png"$',
                     (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
