"""The one exception that reaches a user as a sentence instead of a traceback."""


class ESCDiffError(ValueError):
    """What was given, what is allowed, what to do: one clear sentence for the person in front of the screen."""


def lookup(table: dict, name: str, what: str):
    """Return ``table[name]``; raise :class:`ESCDiffError` naming the unknown ``what`` and listing the known ones."""
    if name not in table:
        raise ESCDiffError(f"unknown {what} {name!r}; known: {', '.join(sorted(table))}")
    return table[name]


def is_out_of_memory(error: BaseException) -> bool:
    """Did Python or one of torch's allocators run out of memory? Told by name, so that nobody needs torch to ask."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
