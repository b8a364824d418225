"""Draw the pictures of this benchmark: ``python benchmarks/outside/draw.py``.

Eight shapes in one colour each and eight surfaces on roomy forms, all on backgrounds of their own, 128 × 128
pixels, each with its exact mask beside it, as ``python -m escdiff_core bench --references`` takes them. The
same on every machine.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from shapes import SHAPES, draw
from surfaces import SURFACES, paint

PICTURES = Path(__file__).resolve().parent / "pictures"
SIZE = 128
# Colour of the shape, of the background behind it: sRGB, 0 to 255
SHAPE_COLOURS = {
    "teapot": ((187, 62, 48), (221, 227, 206)), "bird": ((46, 104, 158), (247, 232, 196)),
    "airplane": ((236, 238, 232), (92, 142, 176)), "hand": ((221, 164, 128), (62, 74, 84)),
    "guitar": ((150, 84, 36), (203, 219, 224)), "key": ((202, 162, 58), (74, 44, 70)),
    "dinosaur": ((92, 142, 62), (240, 214, 200)), "elephant": ((128, 132, 148), (232, 206, 120)),
}
# The form that shows a surface, and the background behind it
FORMS = {
    "disc": [("disc", [(64, 64), (53, 53)], 1)],
    "cushion": [
        ("curve", [(16, 16), (64, 20), (112, 16), (108, 64), (112, 112), (64, 108), (16, 112), (20, 64)], 1)
    ],
    "egg": [
        ("curve", [(64, 8), (94, 30), (107, 70), (92, 108), (64, 119), (36, 108), (21, 70), (34, 30)], 1)
    ],
    "shield": [("corners", [(18, 14), (110, 14), (110, 70), (64, 120), (18, 70)], 1)],
}
SURFACE_BACKS = {
    "bricks": ("cushion", (196, 214, 172)), "scales": ("egg", (246, 214, 206)),
    "leopard": ("disc", (104, 150, 178)), "houndstooth": ("shield", (206, 112, 74)),
    "plaid": ("cushion", (202, 216, 222)), "basket": ("egg", (78, 108, 98)),
    "flames": ("disc", (66, 92, 128)), "terrazzo": ("shield", (112, 128, 74)),
}


def _colour(values: tuple[int, int, int]) -> np.ndarray:
    return np.asarray(values, np.float32) / 255


def shape_picture(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A shape in its colour, softly lit from the upper left, and its mask; (128, 128, 3), (128, 128), 0 to
    1."""
    front, back = map(_colour, SHAPE_COLOURS[name])
    axis = np.linspace(-1, 1, SIZE, dtype=np.float32)
    light = (1 - 0.1 * axis[:, None] - 0.07 * axis)[..., None]
    mask = draw(SHAPES[name])
    return _on(np.clip(front * light, 0, 1), back, mask), mask


def surface_picture(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A surface on its form, and the form's mask."""
    form, back = SURFACE_BACKS[name]
    mask = draw(FORMS[form])
    return _on(paint(SURFACES[name]), _colour(back), mask), mask


def _on(front: np.ndarray, back: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return front * mask[..., None] + back * (1 - mask[..., None])


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    for kind, names, make in (("shape", SHAPES, shape_picture), ("appearance", SURFACES, surface_picture)):
        for name in names:
            for part, suffix in zip(make(name), (".png", ".mask.png"), strict=True):
                Image.fromarray((part * 255 + 0.5).astype(np.uint8)).save(
                    PICTURES / f"{kind}_{name}{suffix}", optimize=True
                )


if __name__ == "__main__":
    main()
