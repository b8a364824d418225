"""The rooms of the core, and that every arrow between them points down: who may import whom."""

import ast
import re
import statistics
from pathlib import Path

import pytest

from escdiff_core.learning.recipes import RECIPES

CORE = Path(__file__).resolve().parent.parent / "escdiff_core"
# From the ground up. A room may import those below it, and never one beside it on the same floor.
FLOORS = (("registry",), ("model", "reference"), ("families",), ("attribute",), ("unet",),
          ("learning", "mixing"), ("worlds",), ("metrics",), ("bench",), ("queue",), ("cli",))
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
HOST = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "nodes"}
# a file of ComfyUI-Manager's
MANAGER_S = ("docs/publishing.md", "scanner.py")
# what a person starts: they stand on the roof, as cli does
PROGRAMS = {"__main__", "worlds.pocket.train"}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(CORE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> list[tuple[str, int]]:
    """Modules of the core that a file imports, wherever in it, but for types alone; with the line."""
    package = path.relative_to(CORE).parent.parts
    found = []

    def look(node: ast.AST) -> None:
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            return
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[:len(package) - node.level + 1]
            name = [*base, *(node.module.split(".") if node.module else [])]
            found.extend([(".".join(name), node.lineno)] if node.module else
                         [(".".join([*base, alias.name]), node.lineno) for alias in node.names])
        for child in ast.iter_child_nodes(node):
            look(child)

    look(ast.parse(path.read_text()))
    return found


def wrong_arrow(module: str, imported: str) -> str:
    """Why ``module`` may not import ``imported``, empty if it may. What lies in no room is ground for all."""
    room, other = module.partition(".")[0], imported.partition(".")[0]
    if module in PROGRAMS or room == other or other not in FLOOR:
        return ""
    if room not in FLOOR:
        return "" if other == "registry" else f"{module} is ground for all rooms, and imports {imported}"
    if FLOOR[other] == FLOOR[room]:
        return f"{module} imports {imported}: {room} and {other} are on one floor and never meet"
    return f"{module} imports {imported}, which is above it" if FLOOR[other] > FLOOR[room] else ""


FILES = sorted(CORE.rglob("*.py"))


def test_every_arrow_points_down():
    wrong = [f"{why} (line {line})" for path in FILES for imported, line in imports(path)
             if (why := wrong_arrow(module_of(path), imported))]
    assert not wrong, "\n".join(wrong)


def test_every_room_has_its_floor():
    rooms = {p.name for p in CORE.iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert rooms == set(FLOOR) - {"registry"}


@pytest.mark.parametrize(("module", "imported", "words"), [
    ("families.load", "worlds.pocket", "above"), ("learning.tune", "mixing.mix", "never meet"),
    ("errors", "families.load", "ground"), ("unet.route", "learning.recipes", "above")])
def test_a_wrong_arrow_is_told(module, imported, words):
    assert words in wrong_arrow(module, imported)


def test_no_module_imports_itself_in_a_circle():
    """A circle among what is imported at the top of the files would make the order of importing matter."""
    modules = {module_of(p): p for p in FILES}
    graph = {}
    for name, path in modules.items():
        top = {n.lineno for n in ast.parse(path.read_text()).body}
        graph[name] = {i for i, line in imports(path) if line in top and i in modules}
    done: set[str] = set()

    def follow(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name):], name))
        if name not in done:
            for other in graph[name]:
                follow(other, (*trail, name))
            done.add(name)

    for name in graph:
        follow(name, ())


def test_the_core_knows_no_host():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else \
                [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not {n.partition(".")[0] for n in names} & HOST, path


def test_files_are_short():
    """Five minutes are enough to read one; lines of more than 110 columns are ruff's to find."""
    root = CORE.parent
    lengths = {
        str(path.relative_to(root)): path.read_text(encoding="utf-8").count("\n")
        for folder in ("escdiff_core", "nodes", "tests", "benchmarks", "example_workflows", "docs", "locales")
        for path in (root / folder).rglob("*.py")
    }
    assert {name: lines for name, lines in lengths.items() if lines > 320} == {}
    assert statistics.median(lengths.values()) <= 110


def test_pages_name_files_that_are_there():
    """In backticks, from the top, the core, the tests or the page's own folder."""
    root = CORE.parent
    pages = [root / "README.md", root / "CONTRIBUTING.md",
             *(page for folder in ("docs", "benchmarks") for page in (root / folder).rglob("*.md"))]
    gone = [
        (str(page.relative_to(root)), name) for page in pages
        for name in re.findall(r"`([\w./-]+\.py)`", page.read_text(encoding="utf-8"))
        if not any((folder / name).exists() for folder in (root, CORE, root / "tests", page.parent))
    ]
    assert [g for g in gone if g != MANAGER_S] == []


def test_the_method_s_page_names_every_recipe():
    page = (CORE.parent / "docs" / "method.md").read_text(encoding="utf-8")
    assert [name for name in RECIPES if f"`{name}`" not in page] == []
