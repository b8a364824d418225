"""A workflow in ComfyUI's API format, and the places in it that a table may set."""

import json
from pathlib import Path

from ..errors import ESCDiffError

Graph = dict[str, dict]  # node key: {"class_type", "inputs", maybe "_meta": {"title"}}


def load_workflow(path: Path) -> Graph:
    """Read a graph. Raises ESCDiffError for a missing file, for what is not JSON, and for the UI format."""
    if not path.is_file():
        raise ESCDiffError(
            f"--workflow {path} does not exist; give a workflow that ComfyUI exported in API format"
        )
    try:
        graph = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ESCDiffError(
            f"--workflow {path} is not JSON ({error}); export it again from ComfyUI in API format"
        ) from error
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
        raise ESCDiffError(
            f"--workflow {path} is in the UI format, not the API format; in ComfyUI, Workflow > Export (API)"
        )
    if not isinstance(graph, dict) or not graph or not all(_is_node(node) for node in graph.values()):
        raise ESCDiffError(
            f"--workflow {path} is no ComfyUI workflow in API format; in ComfyUI, Workflow > Export (API)"
        )
    return graph


def find_place(graph: Graph, column: str) -> tuple[str, str]:
    """The (node key, input name) that a column ``node.input`` means; node is a key or a title, and both may
    hold dots.

    Raises ESCDiffError if there is no such place, if a title fits several, or if the input is wired to
    another node.
    """
    cuts = [(column[:i], column[i + 1:]) for i, letter in enumerate(column) if letter == "."]
    if not cuts:
        raise ESCDiffError(
            f"table column {column!r} is not of the form node.input (or `name`); nodes: {_listed(graph)}"
        )
    nodes = {(key, name) for node, name in cuts for key in _called(graph, node)}
    if not nodes:
        raise ESCDiffError(
            f"table column {column!r}: no node of the workflow is called so; nodes: {_listed(graph)}"
        )
    places = [(key, name) for key, name in nodes if name in graph[key]["inputs"]]
    if not places:
        key, name = min(nodes)
        known = (
            ", ".join(n for n, v in graph[key]["inputs"].items() if not is_link(v))
            or "none that a table can set"
        )
        raise ESCDiffError(
            f"table column {column!r}: node {title_of(graph, key)!r} has no input {name!r}; inputs: {known}"
        )
    if len(places) > 1:
        keys = ", ".join(sorted(key for key, _ in places))
        raise ESCDiffError(
            f"table column {column!r}: several nodes have this title; use one of the keys {keys} instead"
        )
    key, name = places[0]
    if is_link(graph[key]["inputs"][name]):
        source = title_of(graph, graph[key]["inputs"][name][0])
        raise ESCDiffError(
            f"table column {column!r}: this input is wired to node {source!r}; set a value there instead"
        )
    return key, name


def title_of(graph: Graph, key: str) -> str:
    """What the artist calls a node: its title, else its class, else its key."""
    node = graph.get(key, {})
    return (node.get("_meta") or {}).get("title") or node.get("class_type") or key


def is_link(value: object) -> bool:
    """Whether an input's value is a wire ``[node key, output number]``."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _is_node(node: object) -> bool:
    return (
        isinstance(node, dict)
        and isinstance(node.get("class_type"), str)
        and isinstance(node.get("inputs"), dict)
    )


def _called(graph: Graph, node: str) -> list[str]:
    return [node] if node in graph else [key for key in graph if title_of(graph, key) == node]


def _listed(graph: Graph) -> str:
    return ", ".join(
        key if title_of(graph, key) == key else f"{key} ({title_of(graph, key)})" for key in graph
    )
