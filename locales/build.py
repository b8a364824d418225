"""The nodes in other languages: ``python locales/build.py`` writes LANGUAGE/nodeDefs.json and main.json,
which ComfyUI serves.

LANGUAGE.json beside this file is the table: each English word or sentence of the nodes, and what it is in
that language. It is written by hand; everything else is built from it and from the nodes as their source has
them. The titles of nodes stand in English inside the table's sentences, and are replaced by the titles in
that language. ``python locales/build.py zh`` prints what the table of Chinese lacks.
"""

import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
from node_schemas import Node, Port, read_nodes  # noqa: E402

# those of ComfyUI's front end that the tables have
LANGUAGES = ("zh", "zh-TW", "ja", "ko", "fr", "es", "ru")
Table = dict[str, str]
Nodes = dict[str, Node]


def read_table(language: str) -> Table:
    return json.loads((HERE / f"{language}.json").read_text(encoding="utf-8"))


def sentences(nodes: Nodes) -> list[str]:
    """Every English text of the nodes once, in their order: titles, descriptions, names of ports, tooltips,
    groups."""
    found = []
    for node in nodes.values():
        ports = [text for port in (*node.inputs, *node.outputs) for text in (port.name, port.tooltip)]
        found += [node.title, node.description, *ports, node.group]
    return [text for text in dict.fromkeys(found) if text]


def translate(nodes: Nodes, table: Table) -> tuple[dict, dict]:
    """(nodeDefs, main) as ComfyUI's front end reads them; dots in keys are underscores there. Raises KeyError
    for a gap."""
    titles = sorted({node.title for node in nodes.values()}, key=len, reverse=True)
    named = re.compile("|".join(map(re.escape, titles)))

    def said(text: str) -> str:
        return table[text] if text in titles else named.sub(lambda title: table[title[0]], table[text])

    def port(each: Port) -> dict[str, str]:
        return {"name": said(each.name), **({"tooltip": said(each.tooltip)} if each.tooltip else {})}

    definitions = {key: {"display_name": said(node.title), "description": said(node.description),
                         "inputs": {each.key.replace(".", "_"): port(each) for each in node.inputs},
                         "outputs": {str(i): port(each) for i, each in enumerate(node.outputs)}}
                   for key, node in nodes.items()}
    groups = dict.fromkeys(node.group for node in nodes.values() if node.group)
    return definitions, {"nodeCategories": {group.replace(".", "_"): said(group) for group in groups}}


def written(content: dict) -> str:
    """A file's text."""
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def main() -> None:
    nodes = read_nodes()
    for language in sys.argv[1:]:
        table = read_table(language) if (HERE / f"{language}.json").exists() else {}
        print(written({text: "" for text in sentences(nodes) if text not in table}))
    for language in LANGUAGES if not sys.argv[1:] else ():
        (HERE / language).mkdir(exist_ok=True)
        for name, content in zip(("nodeDefs", "main"), translate(nodes, read_table(language)), strict=True):
            (HERE / language / f"{name}.json").write_text(written(content), encoding="utf-8")


if __name__ == "__main__":
    main()
