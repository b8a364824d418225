"""An API graph read as a graph: which inputs are widgets, who is wired to whom, in which order."""

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
SEEDS = ("seed", "noise_seed")              # the front end puts a control below an INT of these names


def is_link(value) -> bool:
    """Whether an input's value in an API graph is another node's output."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def links_of(node: dict) -> dict[str, tuple[str, int]]:
    return {name: (value[0], value[1]) for name, value in node["inputs"].items() if is_link(value)}


def sources_first(graph: dict) -> list[str]:
    """The nodes' keys, every node after those it takes something from. Raises ValueError for a circle."""
    order: list[str] = []
    while len(order) < len(graph):
        ready = [
            k for k in graph if k not in order and all(s in order for s, _ in links_of(graph[k]).values())
        ]
        if not ready:
            raise ValueError(f"the graph runs in a circle: {', '.join(k for k in graph if k not in order)}")
        order.extend(ready)
    return order


def inputs_of(definition: dict) -> dict[str, list]:
    """Input names to [type, settings], in the front end's order: required ones first."""
    return {**definition["input"].get("required", {}), **definition["input"].get("optional", {})}
