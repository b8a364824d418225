"""The reference picture: decoded, brought to a size the model knows without cropping, with its subject's
mask."""

import hashlib
import io
from dataclasses import dataclass, field
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import ESCDiffError
from .background_removal import is_network, mask_by_network
from .decode import check_mask, mask_from_array, over_paper, picture_from_array, read_mask, read_picture
from .photograph import subject_of

STEP = 64                   # pixels: the VAE reduces by 8 and the UNet three times by 2
# longer side to shorter; beyond, no allowed size comes near at the pocket's 128 px
LONGEST_ASPECT = 4.0
AREA_BOUNDS = (0.55, 2.0)   # of native_size²: outside, the model draws things twice or not at all
ASPECT_COST = 4.0           # a stretched subject is worse than a picture that is larger or smaller than usual
WHOLE = "the whole picture counts"


@dataclass(frozen=True, eq=False)
class Reference:
    """One picture to learn from.

    ``image``: float32 (h, w, 3), 0 to 1, sides multiples of 64. ``mask``: float32 (h, w), 1 = subject, or
    None when the whole picture counts. ``note``: what was decided about the mask and the size, for the log.
    """

    image: np.ndarray
    mask: np.ndarray | None
    note: str = ""
    # sha256 (hex) of size, pixels and mask: equal for equal things to learn from
    hash: str = field(init=False)

    def __post_init__(self):
        digest = hashlib.sha256(repr(self.image.shape).encode())
        for array in (self.image, self.mask):
            digest.update(b"no mask" if array is None else np.ascontiguousarray(array, dtype="<f4").tobytes())
        object.__setattr__(self, "hash", digest.hexdigest())

    @classmethod
    def from_arrays(
        cls, image: Any, mask: Any = None, native_size: int = 512, source: str = "the picture"
    ) -> "Reference":
        """Make a reference from arrays or tensors: picture (h, w, 3) and mask (h, w), each with a batch of
        one or not.

        Values are uint8, uint16 or floats 0 to 1. A fourth channel is the mask; else ``mask``: an array,
        ``"auto"`` (find the subject), or None (the whole picture). Raises ESCDiffError: NaN, wrong shape,
        dtype or range, too small or too long, a mask of another size, empty or full.
        """
        picture, alpha = picture_from_array(_as_numpy(image), source)
        if alpha is not None or mask is None or isinstance(mask, str):
            asked = "none" if mask is None else mask if isinstance(mask, str) else _as_numpy(mask)
            return _finish(picture, alpha, asked, native_size, source)
        given = mask_from_array(_as_numpy(mask), f"the mask of {source}")
        return _finish(picture, None, given, native_size, source)

    def thumbnail(self, longest: int = 128) -> bytes:
        """Return the picture as a small PNG, ``longest`` pixels on its longer side (or its own size, if
        smaller)."""
        picture = Image.fromarray((self.image * 255).round().astype(np.uint8))
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", optimize=True)
        return buffer.getvalue()


def load_reference(path: str | Path, mask: str | Path = "auto", native_size: int = 512) -> Reference:
    """Read a picture file and decide its mask: its alpha channel if it has one, else ``mask``.

    ``mask``: ``"auto"`` (find the subject on a plain background; where there is none the whole picture
    counts, and the note says so), ``"none"`` (the whole picture), the path of a mask picture of the same
    size, white = subject, or that of a network that removes backgrounds (``.onnx``). The picture keeps its
    aspect ratio as far as sides that are multiples of 64 allow, with an area of about ``native_size``²;
    nothing is cropped. Raises ESCDiffError with one sentence for anything unusable.
    """
    picture, alpha = read_picture(path)
    if str(mask) in ("auto", "none"):
        return _finish(picture, alpha, str(mask), native_size, str(path))
    if is_network(mask):
        found, sure = ("none", 0.0) if alpha is not None else mask_by_network(picture, mask)
        said = f"the network {mask} gave the mask (confidence {sure:.2f})"
        return _finish(picture, alpha, found, native_size, str(path), said)
    return _finish(picture, alpha, read_mask(mask), native_size, str(path))


def fitting_size(height: int, width: int, native_size: int) -> tuple[int, int]:
    """Return the (height, width) in multiples of 64 that suits a picture best: little stretching, area ≈
    native_size².

    Raises ESCDiffError for a picture longer than 4 : 1.
    """
    if max(height, width) > LONGEST_ASPECT * min(height, width):
        raise ESCDiffError(
            f"the picture is {width}×{height}, longer than {LONGEST_ASPECT:.0f} to 1; crop it to the subject"
        )
    area = native_size**2
    sides = range(STEP, STEP * (2 + int(2 * native_size * LONGEST_ASPECT**0.5) // STEP), STEP)
    sizes = [(h, w) for h in sides for w in sides if AREA_BOUNDS[0] <= h * w / area <= AREA_BOUNDS[1]]

    def cost(size: tuple[int, int]) -> tuple[float, int]:
        h, w = size
        return ASPECT_COST * abs(log(w * height / (h * width))) + abs(log(h * w / area)), h * w

    return min(sizes, key=cost)


def _finish(
    picture: np.ndarray, alpha: np.ndarray | None, mask: np.ndarray | str, native_size: int, source: str,
    by_network: str = ""
) -> Reference:
    """Bring everything to its size and settle the mask. ``by_network``: a note, if a network was to give
    it."""
    height, width = picture.shape[:2]
    if native_size < STEP:
        raise ESCDiffError(f"native size {native_size} is not allowed; give at least {STEP} pixels")
    size = fitting_size(height, width, native_size)
    if alpha is None and isinstance(mask, np.ndarray) and mask.shape == picture.shape[:2] and not by_network:
        picture = over_paper(picture, mask)
    image, notes = _resized(picture, size, "bicubic"), []
    if alpha is not None:
        ignored = "" if isinstance(mask, str) and not by_network else "; the given mask is not used"
        notes.append(f"the picture's transparency is the mask{ignored}")
        found = _checked_mask(alpha, (height, width), size, f"the transparency of {source}")
    elif isinstance(mask, np.ndarray):
        notes.append(by_network or "the given mask is used")
        found = _checked_mask(mask, (height, width), size, f"the mask of {source}", given=not by_network)
    elif mask == "auto":
        found, note = _found_mask(image)
        notes.append(note)
    elif mask == "none":
        found = None
        notes.append(f"no mask was asked for: {WHOLE}")
    else:
        raise ESCDiffError(f"unknown mask mode {mask!r}; known: auto, none, or a mask picture")
    stretch = abs(size[1] * height / (size[0] * width) - 1)
    if stretch > 0.01:
        notes.append(f"stretched by {stretch:.0%} to {size[1]}×{size[0]}")
    return Reference(image, found, "; ".join(notes))


def _found_mask(image: np.ndarray) -> tuple[np.ndarray | None, str]:
    try:
        mask, confidence = subject_of(image)
        return mask.astype(np.float32), (
            f"the subject was found on a plain background (confidence {confidence:.2f})"
        )
    except ESCDiffError as error:
        return None, f"{str(error).split(';')[0]}: {WHOLE}"


def _checked_mask(
    mask: np.ndarray, picture: tuple[int, int], size: tuple[int, int], source: str, given: bool = False
) -> np.ndarray:
    """Return the mask at ``size``. Raises ESCDiffError as check_mask does."""
    check_mask(mask, picture, source, given)
    resized = _resized(mask, size, "bilinear")
    check_mask(resized, size, source)       # a speck can vanish on the way down
    return resized


def _resized(array: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    """Resample (h, w) or (h, w, c) to ``size``, antialiased, clipped to 0 to 1; the same size passes
    untouched."""
    if array.shape[:2] == size:
        return np.ascontiguousarray(array, dtype=np.float32)
    planes = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    planes = (planes[..., None] if array.ndim == 2 else planes).permute(2, 0, 1)[None]  # (1, c, h, w)
    planes = torch.nn.functional.interpolate(planes, size, mode=mode, antialias=True).clamp(0, 1)
    return planes[0].permute(1, 2, 0).reshape(*size, *array.shape[2:]).contiguous().numpy()


def _as_numpy(array: Any) -> np.ndarray:
    """A numpy array of a numpy array or of a tensor on any device; half precision becomes float32."""
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()
    return np.asarray(array)
