"""The one exception that reaches a user as a sentence instead of a traceback."""


from collections.abc import Iterator
from contextlib import contextmanager

from .faces import worded


class ESCDiffError(ValueError):
    """What was given, what is allowed, what to do: one clear sentence for the person in front of the screen.

    What has different names at the command line and on a node stands in it as ``‹key›`` (see faces); one
    error quotes another by ``args[0]``, so that the key reaches the face.
    """

    def __str__(self) -> str:
        return self.told("command")

    def told(self, face: str) -> str:
        """The sentence in the words of a face."""
        return worded(super().__str__(), face)


# What the allocators of torch say: CUDA's and Apple's, that of Linux, that of Windows, CUDA's libraries; and
# those of onnxruntime
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "_status_alloc_failed",
             "bad allocation", "bad_alloc", "failed to allocate memory")


def lookup(table: dict, name: str, what: str):
    """Return ``table[name]``; raise :class:`ESCDiffError` naming the unknown ``what`` and listing the known
    ones."""
    if name not in table:
        raise ESCDiffError(f"unknown {what} {name!r}; known: {', '.join(sorted(table))}")
    return table[name]


def is_out_of_memory(error: BaseException) -> bool:
    """Did Python or one of torch's allocators run out of memory? Told by name and words, so that nobody needs
    torch to ask."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or any(
        words in said for words in NO_MEMORY)


@contextmanager
def memory_as_a_sentence() -> Iterator[None]:
    """While open, running out of memory is an ESCDiffError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ESCDiffError(
            "out of memory; close what else uses it, give a smaller picture, or take a recipe that trains "
            "less"
        ) from error
