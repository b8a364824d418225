"""What a node has to say, shown on the node itself: the pack's warnings, notes and errors reach the artist,
not the console alone.

One way for all: whatever the pack logs as a warning while a node runs, and whatever it tells, appears below
the node as it is said (progress text) and stays with the job's outputs (UI text). On a host that has neither
it is in the log, as ever.
"""

import functools
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ...escdiff_core.errors import ESCDiffError

PACK = __name__.removesuffix(".nodes.host.notes")      # under ComfyUI the path of the pack's folder
# tells whose a line of the console is; on a node everybody sees it
PREFIX = "ESCDiff: "
log = logging.getLogger(__name__)
_listening: ContextVar["Notes | None"] = ContextVar("escdiff_notes", default=None)
_shown: set[tuple] = set()                              # (client, node) that show a text of ours


class ESCDiff(ESCDiffError):
    """An ESCDiffError on its way to the artist.

    ComfyUI names an exception by its module and class in front of the sentence; a module of the pack is a
    path on the server, which is left out only for Python's own exceptions.
    """

    __module__ = "builtins"


class Notes(logging.Handler):
    """The sentences said while one node runs, each once, in their order."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if _listening.get() is self:            # not what another thread warns of
            self.add(record.getMessage())

    def add(self, sentence: str) -> None:
        sentence = _as_shown(sentence)
        if sentence not in self.said:
            self.said.append(sentence)
            show("\n".join(self.said))


def tell(sentence: str, level: int = logging.INFO) -> None:
    """Say on the node that runs, ours or not, what is no warning of ours: that something was found in the
    cache, or what a stock sampler was given. The log has it as well."""
    log.log(level, "%s%s", PREFIX, sentence)
    notes = _listening.get()
    if notes is None:
        show(_as_shown(sentence))
    else:
        notes.add(sentence)


def nothing_to_tell() -> None:
    """Take back what an earlier run left on the node that runs; a node of ours has done so when it began."""
    if _listening.get() is None:
        show("")


def _as_shown(sentence: str) -> str:
    sentence = sentence.removeprefix(PREFIX)
    return sentence[:1].upper() + sentence[1:]


def show(text: str) -> None:
    """Write ``text`` below the node that runs, for the client that queued it; without a client or with an
    older host, nowhere."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    client, node = (getattr(server, name, None) for name in ("client_id", "last_node_id"))
    send = getattr(server, "send_progress_text", None)
    if send is None or client is None or node is None:
        return
    # an empty text is left out by front ends: a blank one takes its place
    if text.strip() or (client, node) in _shown:
        send(text or " ", node, client)
        _shown.add((client, node))


@contextmanager
def listening() -> Iterator[Notes]:
    """While open, the pack's warnings are collected and shown; an ESCDiffError leaves it as one sentence
    without a path."""
    notes, package = Notes(), logging.getLogger(PACK)
    before = _listening.set(notes)
    package.addHandler(notes)
    try:
        # what was said of an earlier run does not hold for this one
        show("")
        yield notes
    except ESCDiffError as error:
        notes.add(error.told("node"))           # the newest front ends put it two clicks away
        raise ESCDiff(error.told("node")).with_traceback(error.__traceback__) from error.__cause__
    finally:
        package.removeHandler(notes)
        _listening.reset(before)


def speaking(node: type) -> type:
    """The node class ``node`` with what it says while it runs shown on it."""
    inner = node.execute.__func__

    @functools.wraps(inner)
    def execute(cls, *given, **inputs):
        if _listening.get() is not None:                # a node inside another: the outer one speaks
            return inner(cls, *given, **inputs)
        with listening() as notes:
            return with_text(inner(cls, *given, **inputs), notes.said)

    names = {"__module__": node.__module__, "__qualname__": node.__qualname__, "__doc__": node.__doc__}
    return type(node)(node.__name__, (node,), {**names, "execute": classmethod(execute)})


def with_text(output, sentences: list[str]):
    """``output`` (io.NodeOutput) with the ``sentences`` in front of its UI text, which then shows below the
    node.

    Front ends keep a UI text to themselves unless it comes from a node they know.
    """
    own = output.ui.as_dict() if hasattr(output.ui, "as_dict") else dict(output.ui or {})
    # where a node runs for each item of a list, the host wants the same entries of every run
    if own or sentences:
        output.ui = {**own, "text": (*sentences, *own.get("text", ()))}
        if own.get("text"):
            show("\n".join(output.ui["text"]))
    return output
