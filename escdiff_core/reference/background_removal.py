"""The subject by a background-removal network that the user has as an ONNX file: U²-Net, ISNet, BiRefNet and
their like."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from skimage.transform import resize

from ..errors import ESCDiffError
from ..extras import need

SIDE = 1024             # pixels a side for a network that takes any
# (mean, standard deviation) by which pictures were normalised when such networks were trained: that of
# ImageNet (U²-Net, BiRefNet) and that of ISNet. A file does not say which is its own.
NORMS = (((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0)))
UNSURE = (0.2, 0.8)     # between them a pixel belongs neither to the subject nor to its ground
SURE = 0.65             # as much of the subject's area as is asked to be decided


def is_network(mask: str | Path) -> bool:
    """Whether a mask is given by a network's file."""
    return Path(mask).suffix.lower() == ".onnx"


def mask_by_network(picture: np.ndarray, path: str | Path) -> np.ndarray:
    """How much each pixel of ``picture``, (h, w, 3), float 0 to 1, belongs to the subject, float32 (h, w), by
    the network in ``path``.

    Both usual normalisations are tried, and the more decided answer taken. Raises ESCDiffError in one
    sentence: no such file, no network that maps a picture to a mask, nothing found, not sure.
    """
    session = _opened(str(path))
    given = session.get_inputs()[0]
    side = given.shape[2] if len(given.shape) == 4 and isinstance(given.shape[2], int) else SIDE
    small = resize(picture, (side, side), order=1, anti_aliasing=True)
    mask = max((_answer(session, (small - mean) / deviation, path) for mean, deviation in NORMS),
               key=lambda answer: float(np.abs(answer - 0.5).mean()))
    subject = mask > 0.5
    if not subject.any():
        raise ESCDiffError(f"the network {path} found no subject in the picture; give a mask, or none")
    unsure = ((mask > UNSURE[0]) & (mask < UNSURE[1])).sum() / subject.sum()
    if 1 - unsure < SURE:
        raise ESCDiffError(
            f"the network {path} is not sure where the subject ends (confidence {max(1 - unsure, 0):.2f}, "
            f"needed {SURE:.2f}); give a mask, or another network"
        )
    return resize(mask, picture.shape[:2], order=1).astype(np.float32).clip(0, 1)


@lru_cache(maxsize=1)
def _opened(path: str):
    """The network as onnxruntime computes it, opened once."""
    if not Path(path).is_file():
        raise ESCDiffError(
            f"the network {path} does not exist; give an ONNX file, a mask picture, auto or none"
        )
    need("a mask by a network", "onnxruntime")
    import onnxruntime

    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, quiet, providers=["CPUExecutionProvider"])
    except Exception as error:          # what onnxruntime raises has no common class but this one
        raise ESCDiffError(f"{path} is no ONNX file that can be read ({_short(error)})") from error


def _answer(session, pixels: np.ndarray, path: str | Path) -> np.ndarray:
    """The network's first answer to normalised ``pixels`` (s, s, 3) as probabilities (s, s)."""
    given = session.get_inputs()[0]
    kind = np.float16 if given.type == "tensor(float16)" else np.float32
    try:
        made = session.run(None, {given.name: pixels.transpose(2, 0, 1)[None].astype(kind)})[0]
    except Exception as error:
        raise ESCDiffError(f"the network {path} does not take a picture ({_short(error)})") from error
    answer = np.squeeze(np.asarray(made, np.float32))
    if answer.ndim != 2 or not np.isfinite(answer).all():
        raise ESCDiffError(
            f"the network {path} answers with numbers of shape {list(np.shape(made))}, and no mask (1, 1, "
            "height, width); give one that removes backgrounds"
        )
    if answer.min() < 0 or answer.max() > 1:                    # logits
        answer = 1 / (1 + np.exp(-np.clip(answer, -50, 50)))
    return answer if answer.shape == pixels.shape[:2] else resize(answer, pixels.shape[:2], order=1)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
