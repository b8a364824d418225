"""The named colours of the pocket world, far enough apart in CIELAB that a name decides the colour."""

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {  # sRGB, 0 to 255
    "red": (214, 32, 36),
    "green": (40, 158, 58),
    "blue": (38, 74, 206),
    "yellow": (250, 216, 40),
    "purple": (128, 46, 160),
    "orange": (245, 132, 22),
    "white": (250, 250, 250),
    "black": (22, 22, 24),
    "pink": (252, 150, 196),
    "teal": (10, 140, 148),
    "brown": (118, 70, 34),
    "gray": (140, 142, 146),
}
NAMES: tuple[str, ...] = tuple(COLOURS)

# Pairs too alike to be told apart once shading and a decoder have touched them; never put next to each other.
ALIKE = frozenset(
    frozenset(pair)
    for pair in (("brown", "red"), ("brown", "black"), ("teal", "green"), ("teal", "blue"), ("teal", "gray"),
                 ("gray", "brown"), ("blue", "purple"), ("yellow", "orange"), ("orange", "red"), ("pink", "white"),
                 ("brown", "purple"), ("pink", "gray"), ("brown", "orange"), ("purple", "black"), ("brown", "green"))
)


def rgb(name: str) -> np.ndarray:
    """The colour as float32 (3,), 0 to 1."""
    return np.asarray(COLOURS[name], dtype=np.float32) / 255.0


def distinct_from(names: tuple[str, ...]) -> tuple[str, ...]:
    """The colours that can stand beside every colour in ``names`` and still be told apart."""
    return tuple(c for c in NAMES if c not in names and all(frozenset((c, n)) not in ALIKE for n in names))
