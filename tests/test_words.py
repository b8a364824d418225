"""Each face speaks its own words: no switch of a command on a node, no input of a node at the command
line."""

import ast
import re
from pathlib import Path

import pytest

from escdiff_core.errors import ESCDiffError
from escdiff_core.faces import FACES, WORDS, worded

ROOT = Path(__file__).resolve().parent.parent
SAYING = ("ESCDiffError", "ESCDiff", "warning", "info", "tell", "raise_for")
COMMANDS_ONLY = ("cli", "queue")                    # folders of the core that no node reaches
TOOLS = {"pocket/train.py", "pocket/pack.py", "bench/run.py"}     # commands of their own, too
FOREIGN = {  # face: what the other face alone has
    "node": re.compile(r"(?<![\w-])--[a-z]|`(learn|mix|export|train-filters|queue|bench)\b|python -m"),
    "command": re.compile(r"\bconnect\b|\bnodes?\b|press R|\bESCDiff [A-Z]|at the input|MODEL|CONDITIONING"),
}


def sentences(path: Path) -> list[str]:
    """What a file says to people: the texts in its errors, warnings and notes, a ``{}`` for each value in
    them, and every other text that is no docstring and has a blank, which may become a part of one."""
    def text(node: ast.expr) -> str:
        if isinstance(node, ast.JoinedStr):
            return "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
        if isinstance(node, ast.BinOp):
            return text(node.left) + text(node.right)
        if isinstance(node, ast.IfExp):
            return f"{text(node.body)} {text(node.orelse)}"
        return str(node.value) if isinstance(node, ast.Constant) and isinstance(node.value, str) else "{}"

    said, tree = [], ast.parse(path.read_text(encoding="utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).rpartition(".")[2] in SAYING:
            said += [text(argument) for argument in node.args]
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docs
            and " " in node.value
        ):
            said.append(node.value)
    return said


def files(face: str) -> list[Path]:
    """The files whose sentences that face can show."""
    core = [
        p
        for p in (ROOT / "escdiff_core").rglob("*.py")
        if "/".join(p.parts[-2:]) not in TOOLS and p.name != "faces.py"
    ]
    if face == "node":
        return [*(ROOT / "nodes").rglob("*.py"), *(p for p in core if p.parts[-2] not in COMMANDS_ONLY)]
    # whose workflows do have nodes
    return [p for p in core if p.parts[-2] != "queue" and p.name != "queue.py"]


@pytest.mark.parametrize("face", FACES)
def test_no_sentence_has_words_of_the_other_face(face):
    said = {(path.name, sentence) for path in files(face) for sentence in sentences(path)}
    assert len(said) > 100, "the scan has lost its way"
    foreign = [(name, sentence) for name, sentence in said if FOREIGN[face].search(worded(sentence, face))]
    assert foreign == []


def test_every_key_has_words_and_every_word_is_used():
    said = " ".join(sentence for face in FACES for path in files(face) for sentence in sentences(path))
    assert set(re.findall("‹(.+?)›", said)) == set(WORDS)


def test_an_error_speaks_the_words_of_its_face():
    error = ESCDiffError("the mask is empty; paint the subject white, or ‹no mask›")
    assert str(error) == error.told("command") == (
        "the mask is empty; paint the subject white, or give --mask none")
    assert error.told("node") == "the mask is empty; paint the subject white, or take the mask away"
    assert str(ESCDiffError("a prompt with ‹marks›")) == "a prompt with ‹marks›", "an artist's own"


def test_advice_names_what_there_is():
    """A learning rate is to be set nowhere; steps and recipes are."""
    said = [s for face in FACES for path in files(face) for s in sentences(path)]
    assert not [s for s in said if "learning rate" in s]
    assert [s for s in said if "fewer steps or another recipe" in s]
