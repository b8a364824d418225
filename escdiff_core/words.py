"""English as prompts need it."""

import re


def with_articles(text: str) -> str:
    """``text`` with ``an`` for ``a`` before a vowel, as captions have it."""
    return re.sub(r"(?<!\S)a (?=[aeiou]|hourglass)", "an ", text)
