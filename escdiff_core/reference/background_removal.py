"""The subject by a background-removal network that the user has as an ONNX file: U²-Net, ISNet, BiRefNet,
MODNet and their like."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import ESCDiffError, is_out_of_memory
from ..extras import need
from ..pictures import to_bytes

SIDE = 1024             # pixels a side for a network that takes any
# (mean, standard deviation) by which pictures were normalised when such networks were trained: ImageNet's
# (U²-Net, BiRefNet), ISNet's and MODNet's. A file does not say which is its own.
NORMS = (((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5,) * 3, (1.0,) * 3), ((0.5,) * 3, (0.5,) * 3))
UNSURE = (0.2, 0.8)     # between them a pixel belongs neither to the subject nor to its ground
SURE = 0.65             # the share of the subject's area that is asked to be decided
SLIP = 0.01             # by which a probability may be off 0 or 1: halves, and resizing within a network


def is_network(mask: str | Path) -> bool:
    """Whether a mask is given by a network's file."""
    return Path(mask).suffix.lower() == ".onnx"


def check_network(path: str | Path) -> None:
    """Raise ESCDiffError unless the network in ``path`` can be asked, before anything takes long."""
    _opened(str(path))


def mask_by_network(picture: np.ndarray, path: str | Path) -> tuple[np.ndarray, float]:
    """How much each pixel of ``picture``, (h, w, 3), float 0 to 1, belongs to the subject by the network in
    ``path``, float32 (h, w), and how sure that is, 0 to 1.

    Each usual normalisation is tried, and the surest answer taken that marks something and leaves something.
    Raises ESCDiffError in one sentence: no such file, no network that makes a mask of a picture, nothing
    found, not sure.
    """
    session = _opened(str(path))
    shape = (*(session.get_inputs()[0].shape or ()), None, None, None, None)
    height, width = (side if isinstance(side, int) and side > 0 else SIDE for side in shape[2:4])
    pixels = _scaled(to_bytes(picture), (height, width)) / np.float32(255)
    answers = [_answer(session, (pixels - mean) / deviation, path) for mean, deviation in NORMS]
    answers = [(_sureness(answer), answer) for answer in answers if 0 < (answer > 0.5).mean() < 1]
    if not answers:
        raise ESCDiffError(f"the network {path} found no subject in the picture; give a mask picture or none")
    confidence, mask = max(answers, key=lambda row: row[0])
    if confidence < SURE:
        raise ESCDiffError(
            f"the network {path} is not sure where the subject ends (confidence {confidence:.2f}, needed "
            f"{SURE:.2f}); give a mask picture, or another network"
        )
    return _scaled(mask, picture.shape[:2]), confidence


def close_network() -> None:
    """Give back what a network takes, which may be gigabytes."""
    _opened.cache_clear()


def _sureness(answer: np.ndarray) -> float:
    """1 for an answer of zeros and ones, 0 where as much is undecided as belongs to the subject."""
    unsure = ((answer > UNSURE[0]) & (answer < UNSURE[1])).sum() / (answer > 0.5).sum()
    return float(max(0.0, 1 - unsure))


@lru_cache(maxsize=1)
def _opened(path: str):
    """The network as onnxruntime computes it, opened once."""
    if not Path(path).is_file():
        raise ESCDiffError(
            f"the network {path} is not there, or no file; give an ONNX file, a mask picture, auto or none"
        )
    need("a mask by a network", "onnxruntime")
    import onnxruntime

    how = onnxruntime.SessionOptions()
    how.log_severity_level, how.enable_cpu_mem_arena = 3, False         # errors alone are said
    try:
        return onnxruntime.InferenceSession(path, how, providers=["CPUExecutionProvider"])
    except Exception as error:          # what onnxruntime raises has no common class but this one
        if is_out_of_memory(error):
            raise
        raise ESCDiffError(f"{path} is no ONNX file that can be read ({_short(error, path)})") from error


def _answer(session, pixels: np.ndarray, path: str | Path) -> np.ndarray:
    """The network's first answer to normalised ``pixels`` (h, w, 3) as probabilities, float32 (h, w)."""
    try:
        given = session.get_inputs()[0]
        kind = np.float16 if given.type == "tensor(float16)" else np.float32
        made = session.run(None, {given.name: pixels.transpose(2, 0, 1)[None].astype(kind)})[0]
        answer = np.squeeze(np.asarray(made, np.float32))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ESCDiffError(f"the network {path} does not take a picture ({_short(error, path)})") from error
    if answer.ndim != 2:
        raise ESCDiffError(
            f"the network {path} answers with numbers of shape {list(np.shape(made))}, and no mask (1, 1, "
            "height, width); give one that removes backgrounds"
        )
    if not np.isfinite(answer).all():
        raise ESCDiffError(f"the network {path} answers with NaN or infinite values; give another one")
    if answer.min() < -SLIP or answer.max() > 1 + SLIP:                    # logits
        answer = 1 / (1 + np.exp(-np.clip(answer, -50, 50)))
    return _scaled(answer.clip(0, 1), pixels.shape[:2])


def _scaled(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture in bytes, or a mask in float32, at ``size`` (height, width); what has it stays."""
    return np.array(Image.fromarray(array).resize(size[::-1], Image.Resampling.BILINEAR))      # writable


def _short(error: Exception, path: str | Path) -> str:
    """The end of what onnxruntime says, where the reason is."""
    said = " ".join(str(error).replace(str(path), "").split())
    return said if len(said) <= 120 else f"… {said[-120:]}"
