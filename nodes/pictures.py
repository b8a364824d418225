"""Between the host's pictures (IMAGE (b, h, w, 3), MASK (b, h, w), 0 to 1) and the core's."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ..escdiff_core.errors import ESCDiffError

MOST_PICTURES = 16
log = logging.getLogger(__name__)


def references(image: torch.Tensor, mask: torch.Tensor | None, native_size: int) -> list:
    """One Reference per picture of the batch. Raises ESCDiffError for a video-sized batch and for masks that do not fit.

    Values beyond 0 and 1, as the host's bicubic scaling leaves them, are cut off.
    """
    from ..escdiff_core.reference import Reference

    image, mask = image.clamp(0, 1), None if mask is None else mask.clamp(0, 1)
    if len(image) > MOST_PICTURES:
        raise ESCDiffError(f"{len(image)} pictures were given; a reference is one picture, or at most {MOST_PICTURES} of the same "
                           "thing: take one out of the batch")
    if mask is not None and float(mask.max()) == 0:
        mask = None       # what LoadImage gives for a picture without transparency
    if mask is not None and len(mask) not in (1, len(image)):
        raise ESCDiffError(f"{len(mask)} masks for {len(image)} pictures; give one mask, or one for each picture")
    masks = [None] * len(image) if mask is None else [mask[i % len(mask)].detach().cpu().numpy() for i in range(len(image))]
    made = [Reference.from_arrays(picture.detach().cpu().numpy().copy(), "auto" if given is None else given, native_size)
            for picture, given in zip(image, masks, strict=True)]
    for found in made:
        if found.mask is None:
            # the whole rectangle counts, which is seldom what was meant
            log.warning("ESCDiff: connect a mask if only a part of the picture is meant; %s", found.note)
    return made


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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps = np.arange(1, len(losses) + 1)
    axes.plot(steps, losses, color="#bbbbbb", linewidth=1)
    window = max(1, len(losses) // 10)
    if len(losses) >= window:
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
        axes.plot(steps[window - 1:], smooth, color="#1f6fb2", linewidth=2)
    axes.set(xlabel="step", ylabel="loss", title=title)
    canvas.draw()
    return to_host([np.asarray(canvas.buffer_rgba(), np.float32)[..., :3] / 255])


def judge_of(image: torch.Tensor, mask: torch.Tensor | None):
    """The judge for one reference picture; its subject is found on a plain background when there is no mask."""
    from ..escdiff_core.metrics.scores import Judge

    given = None if mask is None or float(mask.max()) == 0 else mask[0].detach().cpu().numpy()
    return Judge.of_picture(image[0].detach().cpu().numpy(), given)
