"""Between the host's pictures (IMAGE (b, h, w, 3), MASK (b, h, w), 0 to 1) and the core's."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

log = logging.getLogger(__name__)


def references(image: torch.Tensor, mask: torch.Tensor | None, native_size: int) -> list:
    """One Reference per picture of the batch. Raises ESCDiffError for a video-sized batch and for masks that
    do not fit.

    Values beyond 0 and 1, as the host's bicubic scaling leaves them, are cut off.
    """
    from ..escdiff_core.reference.batch import references_of

    return references_of(_unit(image), None if mask is None else _unit(mask), native_size)


def to_host(pictures: np.ndarray | Sequence[np.ndarray]) -> torch.Tensor:
    """Pictures (b, h, w, 3), 0 to 1, as the host's IMAGE."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(list(pictures)), dtype=np.float32))


def from_pil(picture: Image.Image) -> torch.Tensor:
    """One PIL picture as the host's IMAGE, (1, h, w, 3)."""
    return to_host([np.asarray(picture.convert("RGB"), np.float32) / 255])


def overlay(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The picture as the method sees it: what lies outside the mask is dimmed."""
    return image if mask is None else image * (0.3 + 0.7 * mask[..., None])


def loss_plot(losses: Sequence[float], title: str) -> torch.Tensor:
    """The losses over the steps, raw and smoothed, as the host's IMAGE."""
    from ..escdiff_core.plot import plot_losses

    return from_pil(plot_losses(losses, title))


def judge_of(image: torch.Tensor, mask: torch.Tensor | None, what: str):
    """The judge for one reference picture; its subject is found on a plain background when there is no mask.

    Of a batch the first picture is taken, with the first mask, and the node says so.
    """
    from ..escdiff_core.metrics.scores import Judge
    from ..escdiff_core.reference.batch import subject_of

    if len(image) > 1:
        log.warning("%s is %d pictures; the first is taken", what, len(image))
    return Judge.of_picture(*subject_of(_unit(image)[0], None if mask is None else _unit(mask)[0], what))


def judged(images: torch.Tensor) -> np.ndarray:
    """Pictures to be judged, (b, h, w, 3): transparent ones on white."""
    from ..escdiff_core.reference.decode import picture_from_array

    return np.stack([picture_from_array(picture, "a picture to judge")[0] for picture in _unit(images)])


def _unit(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().clamp(0, 1).cpu().numpy().copy()
