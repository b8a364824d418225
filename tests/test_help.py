"""Every node has a help page, every page a node, and every page tells each input and output of its node as the code has them.

The schemas are read from the source, because ComfyUI need not be there: see :class:`Reader`.
"""

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "web" / "docs"
HEADINGS = ["Inputs", "Outputs", "How to use it", "Common mistakes"]
UNKNOWN = object()      # a value that only running the code would tell


@dataclass(frozen=True)
class Port:
    """An input or an output: its name as the user sees it and, where the source says it plainly, its default."""

    name: str
    default: Any = UNKNOWN


@dataclass
class Reader:
    """Works out what ``schema(...)`` is called with. Raises on an expression it does not know, so that no input is missed."""

    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    constants: dict[str, ast.expr] = field(default_factory=dict)

    def ports(self, node: ast.expr, names: dict) -> list[Port]:
        """The inputs or outputs that an expression stands for, in order; ``names`` are the local variables."""
        match node:
            case ast.List(elts) | ast.Tuple(elts):
                return [port for each in elts for port in self.ports(each, names)]
            case ast.Starred(value):
                return self.ports(value, names)
            case ast.Subscript(value, ast.Constant(int(index))):
                return [self.ports(value, names)[index]]
            case ast.IfExp(test, body, orelse):
                return self.ports(body if self.value(test, names) else orelse, names)
            case ast.Name(name) if isinstance(names.get(name), ast.expr):
                return self.ports(names[name], names)
            case ast.Name(name) if isinstance(names.get(name), tuple):
                return self.ports(*names[name])
            case ast.Call(ast.Name("advanced"), [inner]):
                return self.ports(inner, names)
            case ast.Call(ast.Name(name)) if name in self.functions:
                return self.helper(self.functions[name], node, names)
            case ast.Call(ast.Attribute(kind, "Input" | "Output")):
                given = self.keywords(node, names)
                name = self.value(node.args[0], names) if node.args else ast.unparse(kind).rsplit(".")[-1].upper()
                assert isinstance(name, str), f"no name for {ast.unparse(node)}"
                return [Port(given.get("display_name", name), given.get("default", UNKNOWN))]
        raise AssertionError(f"tests/test_help.py cannot read {ast.unparse(node)!r}: teach it")

    def helper(self, function: ast.FunctionDef, call: ast.Call, names: dict) -> list[Port]:
        """What a shared helper such as ``model_inputs(vae=False)`` returns for this call."""
        parameters = [a.arg for a in function.args.args]
        defaults = dict(zip(reversed(parameters), reversed(function.args.defaults), strict=False))
        given = {**defaults, **dict(zip(parameters, call.args, strict=False)), **{k.arg: k.value for k in call.keywords}}
        # what is not known may be a list of ports, which is read where it was written
        inside = {n: (v, names) if (known := self.value(v, names)) is UNKNOWN else known for n, v in given.items()}
        inside |= assigned(function)
        return self.ports(next(s.value for s in function.body if isinstance(s, ast.Return)), inside)

    def keywords(self, call: ast.Call, names: dict) -> dict[str, Any]:
        """The keyword arguments of a call, ``**variable`` included."""
        given = {}
        for each in call.keywords:
            if each.arg is not None:
                given[each.arg] = self.value(each.value, names)
            elif isinstance(each.value, ast.Name) and isinstance(found := names.get(each.value.id), ast.Dict):
                given |= {self.value(k, names): self.value(v, names) for k, v in zip(found.keys, found.values, strict=True)}
        return given

    def value(self, node: ast.expr, names: dict) -> Any:
        """The plain value of an expression, or UNKNOWN."""
        match node:
            case ast.Constant(value):
                return value
            case ast.Name(name):
                found = names.get(name, self.constants.get(name, UNKNOWN))
                if isinstance(found, tuple):
                    return self.value(*found)
                return self.value(found, names) if isinstance(found, ast.expr) else found
            case ast.Attribute(ast.Name("cls"), name):
                return names.get(name, UNKNOWN)
            case ast.Call(ast.Attribute(text, "capitalize"), []):
                return self.value(text, names).capitalize()
            case ast.JoinedStr(parts):
                return "".join(self.value(p.value if isinstance(p, ast.FormattedValue) else p, names) for p in parts)
        return UNKNOWN


def assigned(body: ast.FunctionDef | ast.ClassDef | ast.Module) -> dict[str, ast.expr]:
    return {s.targets[0].id: s.value for s in body.body if isinstance(s, ast.Assign) and isinstance(s.targets[0], ast.Name)}


def read_nodes() -> dict[str, tuple[list[Port], list[Port]]]:
    """Node id to inputs and outputs, for every class in a ``NODES`` list of nodes/*.py."""
    modules = [ast.parse(p.read_text(encoding="utf-8")) for p in sorted((ROOT / "nodes").glob("*.py"))]
    reader = Reader({s.name: s for m in modules for s in m.body if isinstance(s, ast.FunctionDef)},
                    {n: v for m in modules for n, v in assigned(m).items()})
    found = {}
    for module in modules:
        classes = {s.name: s for s in module.body if isinstance(s, ast.ClassDef)}
        listed = assigned(module).get("NODES", ast.List([]))
        for name in (e.id for e in listed.elts if isinstance(e, ast.Name)):
            node = classes[name]
            chain = [node, *(classes[b.id] for b in node.bases if isinstance(b, ast.Name))]
            define = next(s for c in chain for s in c.body if isinstance(s, ast.FunctionDef) and s.name == "define_schema")
            own = {n: reader.value(v, {}) for c in reversed(chain) for n, v in assigned(c).items()} | assigned(define)
            call = next(s.value for s in define.body if isinstance(s, ast.Return))
            assert isinstance(call, ast.Call) and ast.unparse(call.func) == "schema", f"{name} does not return schema(...)"
            node_id, _title, _description, inputs, outputs = call.args
            found[reader.value(node_id, own)] = reader.ports(inputs, own), reader.ports(outputs, own)
    return found


def scanned() -> set[str]:
    """The node ids as ComfyUI-Manager lists them, which reads all files and runs none: where the id is not the argument
    ``node_id`` of a call of Schema, it is the name of a class right below ComfyNode."""
    trees = [ast.parse(p.read_text(encoding="utf-8")) for p in (ROOT / "nodes").rglob("*.py")]
    return {c.name for tree in trees for c in ast.walk(tree) if isinstance(c, ast.ClassDef)
            and "ComfyNode" in (getattr(base, "attr", getattr(base, "id", "")) for base in c.bases)}


def sections(page: str) -> dict[str, str]:
    """The text below each second-level heading."""
    parts = re.split(r"^## (.+)\n", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table(text: str) -> list[list[str]]:
    """The rows of the table, without its head: the cells, backticks taken off."""
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return [[name.strip("`"), *rest] for name, *rest in cells]


def shown(default: Any) -> str:
    """How a page writes a default, at the end of what an input does; an empty text needs no words."""
    if isinstance(default, bool):
        return f" Default: {'on' if default else 'off'}."
    return "" if default in (UNKNOWN, "") else f" Default: `{default}`."


SCHEMAS = read_nodes()


def page_of(node: str) -> str:
    path = PAGES / f"{node}.md"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def test_the_reader_sees_the_nodes_as_they_are():
    assert len(SCHEMAS) == 23 and {"ESCDiffShapeFilter", "ESCDiffAppearanceFilter", "ESCDiffMix"} <= set(SCHEMAS)
    inputs, outputs = SCHEMAS["ESCDiffApply"]
    assert [p.name for p in inputs] == ["model", "shape", "appearance", "shape_strength", "appearance_strength", "middle",
                                        "shape_start", "shape_end", "appearance_start", "appearance_end", "overlap"]
    assert [p.name for p in outputs] == ["MODEL", "mixed"]
    assert Port("shape_strength", 1.0) in inputs
    learn = ["model", "clip", "vae", "image", "class_word", "recipe"]
    assert [p.name for p in SCHEMAS["ESCDiffLearnShape"][0]][:6] == learn
    assert [p.name for p in SCHEMAS["ESCDiffLearnAttribute"][0]][:7] == [*learn[:4], "kind", *learn[4:]]
    assert [p.name for p in SCHEMAS["ESCDiffPrompt"][0]] == ["mixed", "clip", "prompt"]
    assert Port("seed", 0) in SCHEMAS["ESCDiffTune"][0] and Port("name", "filters") in SCHEMAS["ESCDiffTrainFilters"][0]


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
    assert [r[0] for r in table(parts["Outputs"])] == [p.name for p in outputs], "the outputs, in the node's order"
    stale = {p.name: (r[1], shown(p.default)) for p, r in zip(inputs, rows, strict=True)
             if not r[1].endswith(shown(p.default)) or (p.default == "" and "Default:" in r[1])}
    assert not stale, "defaults: (page, node)"


@pytest.mark.parametrize("node", sorted(SCHEMAS))
def test_a_page_is_short_names_real_nodes_and_links_to_nothing_that_is_not_there(node):
    page = page_of(node)
    assert f"](pictures/{node}.png)" in page, "a picture: python docs/node_pictures.py URL"
    assert 20 <= len(page.splitlines()) <= 55
    titles = {title for other in SCHEMAS for title in re.findall(r"^# (.+)", page_of(other))}
    assert set(re.findall(r"\*\*(ESCDiff [^*]+)\*\*", page)) <= titles
    for target in re.findall(r"\]\(([^)]+)\)", page):
        assert "://" in target or (PAGES / target).is_file(), target
