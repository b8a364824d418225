"""Every node has a help page, every page a node, and every page tells each input and output of its node as
the code has them."""

import re
from pathlib import Path
from typing import Any

import pytest
from node_schemas import UNKNOWN, Port, read_nodes, scanned

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "web" / "docs"
HEADINGS = ["Inputs", "Outputs", "How to use it", "Common mistakes"]


def sections(page: str) -> dict[str, str]:
    """The text below each second-level heading."""
    parts = re.split(r"^## (.+)\n", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def cells(text: str) -> list[list[str]]:
    """The cells of the table, row by row, its head first."""
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def table(text: str) -> list[list[str]]:
    """The rows of the table without its head; a name may be broken behind an underscore."""
    return [[name.replace("<wbr>", ""), *rest] for name, *rest in cells(text)[1:]]


def width(cell: str) -> float:
    """About how many pixels of a panel a cell takes at least: its longest word, code wider than the rest, and
    the room around."""
    def longest(text: str) -> int:
        return max(map(len, re.split(r"\s|-|<wbr>", text)))

    words = re.split("`([^`]*)`", cell)
    return 16 + max(
        [*(7.5 * longest(text) for text in words[::2]), *(8.5 * longest(code) + 12 for code in words[1::2])]
    )


def shown(default: Any) -> str:
    """How a page writes a default, at the end of what an input does; an empty text needs no words."""
    if isinstance(default, bool):
        return f" Default: {'on' if default else 'off'}."
    return "" if default in (UNKNOWN, "") else f" Default: `{default}`."


SCHEMAS = {node: (schema.inputs, schema.outputs) for node, schema in read_nodes().items()}


def page_of(node: str) -> str:
    path = PAGES / f"{node}.md"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def test_the_reader_sees_the_nodes_as_they_are():
    assert len(SCHEMAS) == 23 and {"ESCDiffShapeFilter", "ESCDiffAppearanceFilter", "ESCDiffMix"
                                   } <= set(SCHEMAS)
    inputs, outputs = SCHEMAS["ESCDiffApply"]
    assert [p.name for p in inputs] == [
        "model", "shape", "appearance", "shape_strength", "appearance_strength", "middle", "shape_start",
        "shape_end", "appearance_start", "appearance_end", "overlap"
    ]
    assert [p.name for p in outputs] == ["MODEL", "mixed"]
    assert Port("shape_strength", 1.0) in inputs
    learn = ["model", "clip", "vae", "image", "class_word", "recipe"]
    assert [p.name for p in SCHEMAS["ESCDiffLearnShape"][0]][:6] == learn
    assert [p.name for p in SCHEMAS["ESCDiffLearnAttribute"][0]][:7] == [*learn[:4], "kind", *learn[4:]]
    assert [p.name for p in SCHEMAS["ESCDiffPrompt"][0]] == ["mixed", "clip", "prompt"]
    assert (
        Port("seed", 0) in SCHEMAS["ESCDiffTune"][0]
        and Port("name", "filters") in SCHEMAS["ESCDiffTrainFilters"][0]
    )


def test_those_who_read_the_files_find_every_node_and_nothing_else():
    assert scanned() == set(SCHEMAS)


def test_every_node_has_a_page_and_every_page_a_node():
    pages = {p.stem for p in PAGES.glob("*.md")}
    assert sorted(set(SCHEMAS) - pages) == [], "nodes without a help page in web/docs"
    assert sorted(pages - set(SCHEMAS)) == [], "help pages of no node"


@pytest.mark.parametrize("node", sorted(SCHEMAS))
def test_a_page_tells_its_node_s_inputs_and_outputs(node):
    parts = sections(page_of(node))
    assert list(parts) == HEADINGS
    inputs, outputs = SCHEMAS[node]
    rows = table(parts["Inputs"])
    assert [r[0] for r in rows] == [p.name for p in inputs], "the inputs, in the node's order"
    assert [r[0] for r in table(parts["Outputs"])] == [p.name for p in outputs], (
        "the outputs, in the node's order"
    )
    stale = {p.name: (r[1], shown(p.default)) for p, r in zip(inputs, rows, strict=True)
             if not r[1].endswith(shown(p.default)) or (p.default == "" and "Default:" in r[1])}
    assert not stale, "defaults: (page, node)"


@pytest.mark.parametrize("node", sorted(SCHEMAS))
def test_tables_fit_the_panel_beside_the_canvas(node):
    for part in ("Inputs", "Outputs"):
        rows = cells(sections(page_of(node))[part])
        assert {len(row) for row in rows} <= {2}, "a third column is out of sight"
        needed = sum(max(map(width, column)) for column in zip(*rows, strict=True))
        assert needed <= 270 - 32, (
            f"{part}: about {needed:.0f} pixels at least; the panel has 270 and a border"
        )
        assert [row for row in rows if len(row[1].split(" Default:")[0]) > 120] == [], (
            "say the rest below the tables"
        )


@pytest.mark.parametrize("node", sorted(SCHEMAS))
def test_a_page_is_short_names_real_nodes_and_links_to_nothing_that_is_not_there(node):
    page = page_of(node)
    assert f"](pictures/{node}.png)" in page, "a picture: python docs/node_pictures.py URL"
    assert 20 <= len(page.splitlines()) <= 55
    titles = {title for other in SCHEMAS for title in re.findall(r"^# (.+)", page_of(other))}
    assert set(re.findall(r"\*\*(ESCDiff [^*]+)\*\*", page)) <= titles
    for target in re.findall(r"\]\(([^)]+)\)", page):
        assert "://" in target or (PAGES / target).is_file(), target
