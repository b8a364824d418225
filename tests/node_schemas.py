"""What the nodes are, read from the source, because ComfyUI need not be there: see :class:`Reader`."""

import ast
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
UNKNOWN = object()      # a value that only running the code would tell


@dataclass(frozen=True)
class Port:
    """An input or an output: its name as the user sees it and, where the source says it plainly, its default.

    ``key`` is its id, empty for an output without one.
    """

    name: str
    default: Any = UNKNOWN
    tooltip: str = field(default="", compare=False)
    key: str = field(default="", compare=False)


@dataclass(frozen=True)
class Node:
    """What ``schema(...)`` is given."""

    title: str
    description: str
    inputs: list[Port]
    outputs: list[Port]
    group: str = ""


@dataclass
class Reader:
    """Works out what ``schema(...)`` is called with. Raises on an expression it does not know, so that no
    input is missed."""

    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    constants: dict[str, ast.expr] = field(default_factory=dict)

    def ports(self, node: ast.expr, names: dict) -> list[Port]:
        """The inputs or outputs that an expression stands for, in order; ``names`` are the local
        variables."""
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
                name = self.value(node.args[0],
                                  names) if node.args else ast.unparse(kind).rsplit(".")[-1].upper()
                assert isinstance(name, str), f"no name for {ast.unparse(node)}"
                return [
                    Port(given.get("display_name", name), given.get("default", UNKNOWN),
                         given.get("tooltip", ""), name if node.args else "")
                ]
        raise AssertionError(f"tests/node_schemas.py cannot read {ast.unparse(node)!r}: teach it")

    def helper(self, function: ast.FunctionDef, call: ast.Call, names: dict) -> list[Port]:
        """What a shared helper such as ``model_inputs(vae=False)`` returns for this call."""
        parameters = [a.arg for a in function.args.args]
        defaults = dict(zip(reversed(parameters), reversed(function.args.defaults), strict=False))
        given = {
            **defaults,
            **dict(zip(parameters, call.args, strict=False)),
            **{k.arg: k.value for k in call.keywords},
        }
        # what is not known may be a list of ports, which is read where it was written
        inside = {
            n: (v, names) if (known := self.value(v, names)) is UNKNOWN else known for n, v in given.items()
        }
        inside |= assigned(function)
        return self.ports(next(s.value for s in function.body if isinstance(s, ast.Return)), inside)

    def keywords(self, call: ast.Call, names: dict) -> dict[str, Any]:
        """The keyword arguments of a call, ``**variable`` included."""
        given = {}
        for each in call.keywords:
            if each.arg is not None:
                given[each.arg] = self.value(each.value, names)
            elif isinstance(each.value, ast.Name) and isinstance(found := names.get(each.value.id), ast.Dict):
                given |= {
                    self.value(k, names): self.value(v, names)
                    for k, v in zip(found.keys, found.values, strict=True)
                }
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
                return "".join(
                    self.value(p.value if isinstance(p, ast.FormattedValue) else p, names) for p in parts
                )
        return UNKNOWN


def assigned(body: ast.FunctionDef | ast.ClassDef | ast.Module) -> dict[str, ast.expr]:
    found = {}
    for target, value in ((s.targets[0], s.value) for s in body.body if isinstance(s, ast.Assign)):
        if isinstance(target, ast.Name):
            found[target.id] = value
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            found |= {
                name.id: each
                for name, each in zip(target.elts, value.elts, strict=True)
                if isinstance(name, ast.Name)
            }
    return found


def read_nodes() -> dict[str, Node]:
    """The nodes by their ids, for every class in a ``NODES`` list of nodes/*.py."""
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
            define = next(s for c in chain for s in c.body
                          if isinstance(s, ast.FunctionDef) and s.name == "define_schema")
            own = {
                n: reader.value(v, {}) for c in reversed(chain) for n, v in assigned(c).items()
            } | assigned(define)
            call = next(s.value for s in define.body if isinstance(s, ast.Return))
            assert isinstance(call, ast.Call) and ast.unparse(call.func) == "schema", (
                f"{name} does not return schema(...)"
            )
            node_id, title, description, inputs, outputs = call.args
            group = reader.keywords(call, own).get("group", "")
            found[reader.value(node_id, own)] = Node(
                reader.value(title, own),
                reader.value(description, own),
                reader.ports(inputs, own),
                reader.ports(outputs, own),
                group,
            )
    return found


def scanned() -> set[str]:
    """The node ids as ComfyUI-Manager lists them, which reads all files and runs none: where the id is not
    the argument ``node_id`` of a call of Schema, it is the name of a class right below ComfyNode."""
    trees = [ast.parse(p.read_text(encoding="utf-8")) for p in (ROOT / "nodes").rglob("*.py")]
    return {c.name for tree in trees for c in ast.walk(tree) if isinstance(c, ast.ClassDef)
            and "ComfyNode" in (getattr(base, "attr", getattr(base, "id", "")) for base in c.bases)}
