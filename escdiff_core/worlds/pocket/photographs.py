"""Pieces of the photographs that scikit-image ships (public domain or CC0), which the autoencoder learns from
beside the world."""

from functools import lru_cache

import numpy as np
from PIL import Image

from .world import SIZE

NAMES = ("astronaut", "chelsea", "coffee", "rocket", "retina", "hubble_deep_field", "immunohistochemistry",
         "brick", "grass", "gravel", "camera", "coins", "moon", "page", "text", "clock")
LARGEST = 400         # pixels of a photograph that a piece may span
RECOLOURED = 0.6      # share of the pieces whose colours are mixed anew


@lru_cache(maxsize=1)
def _photographs() -> list[np.ndarray]:
    import skimage.data

    photographs = [np.atleast_3d(getattr(skimage.data, name)()).astype(np.uint8)[..., :3] for name in NAMES]
    return [np.repeat(p, 3, 2) if p.shape[2] == 1 else p for p in photographs]


def photograph(rng: np.random.Generator) -> np.ndarray:
    """A piece of a photograph, scaled, mirrored and recoloured by chance, float32 (128, 128, 3), 0 to 1."""
    photographs = _photographs()
    picture = photographs[rng.integers(len(photographs))]
    height, width = picture.shape[:2]
    side = int(min(np.exp(rng.uniform(np.log(SIZE), np.log(LARGEST))), height, width))
    y, x = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
    piece = Image.fromarray(picture[y:y + side, x:x + side]).resize((SIZE, SIZE), Image.LANCZOS)
    image = np.asarray(piece, np.float32) / 255
    if rng.random() < RECOLOURED:
        image = (image - 0.5) @ (np.eye(3) + rng.normal(size=(3, 3)) * 0.35) + 0.5 + rng.normal(size=3) * 0.12
    return np.clip(image[:, ::-1] if rng.random() < 0.5 else image, 0, 1).astype(np.float32)
