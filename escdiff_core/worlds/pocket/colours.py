"""The named colours of the pocket world. A name is a region: every colour that lies nearer to it than to any
other name."""

from functools import lru_cache

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {  # sRGB, 0 to 255: the middle of each region
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
LEVELS = 18           # steps of each channel of the table that regions are read from
# a colour is drawn for a name only if its distance is at most this share of the next name's
CLEAR = 0.8
APART = 24.0          # CIELAB distance that two colours of one picture must at least have

# Pairs too alike to be told apart once shading and a decoder have touched them; never put next to each other.
ALIKE = frozenset(
    frozenset(pair)
    for pair in (("brown", "red"), ("brown", "black"), ("teal", "green"), ("teal", "blue"), ("teal", "gray"),
                 ("gray", "brown"), ("blue", "purple"), ("yellow", "orange"), ("orange", "red"),
                 ("pink", "white"), ("brown", "purple"), ("pink", "gray"), ("brown", "orange"),
                 ("purple", "black"), ("brown", "green")))


def rgb(name: str) -> np.ndarray:
    """The middle of the name's region, float32 (3,), 0 to 1."""
    return np.asarray(COLOURS[name], dtype=np.float32) / 255.0


def to_lab(colours: np.ndarray) -> np.ndarray:
    """sRGB (..., 3), 0 to 1, to CIELAB float32 (..., 3)."""
    from skimage.color import rgb2lab

    return rgb2lab(np.asarray(colours,
                              np.float32).reshape(1, -1, 3))[0].astype(np.float32).reshape(np.shape(colours))


@lru_cache(maxsize=1)
def _regions() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each name the table's colours that are clearly its own: sRGB and CIELAB, (n, 3) each."""
    axis = np.linspace(0, 1, LEVELS, dtype=np.float32)
    table = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    lab = to_lab(table)
    # (n, 12)
    distances = np.linalg.norm(lab[:, None] - to_lab(np.stack([rgb(n) for n in NAMES])), axis=-1)
    nearest = distances.argsort(1)
    first, second = (np.take_along_axis(distances, nearest[:, k:k + 1], 1)[:, 0] for k in (0, 1))
    clear = first < CLEAR * second
    return {
        name: (table[own], lab[own]) for k, name in enumerate(NAMES) for own in [clear & (nearest[:, 0] == k)]
    }


def paint(name: str, tint: int = 0, place: int = 0) -> np.ndarray:
    """A colour of the name's region, float32 (3,), 0 to 1: its middle for ``tint`` 0, else drawn by ``tint``
    and ``place``."""
    if tint == 0:
        return rgb(name)
    own = _regions()[name][0]
    rng = np.random.default_rng((tint, place, NAMES.index(name)))
    far = own[rng.integers(len(own))] + rng.uniform(-0.5, 0.5, 3) / (LEVELS - 1)
    # of the way from the middle: every colour occurs, ordinary ones more often
    share = rng.uniform() ** 0.6
    return np.clip(rgb(name) * (1 - share) + far * share, 0, 1).astype(np.float32)


def apart(paints: list[np.ndarray]) -> bool:
    """Can all these colours (3,) be told from one another?"""
    lab = to_lab(np.stack(paints))
    return all(np.linalg.norm(a - b) >= APART for i, a in enumerate(lab) for b in lab[:i])


def distinct_from(names: tuple[str, ...]) -> tuple[str, ...]:
    """The colours that can stand beside every colour in ``names`` and still be told apart."""
    return tuple(c for c in NAMES if c not in names and all(frozenset((c, n)) not in ALIKE for n in names))
