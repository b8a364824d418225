"""Picture files and arrays of any common kind to float32 RGB from 0 to 1, upright, with alpha where there is
one."""

import logging
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import ESCDiffError

log = logging.getLogger(__name__)

# Formats that hold pictures. Not EPS and its kin: Pillow runs an external program for those.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM", "TGA", "JPEG2000", "ICO")
MOST_PIXELS = 89_000_000  # just below Pillow's own alarm for decompression bombs; a gigabyte in float32
SMALLEST_SIDE = 16        # pixels; below, there is nothing to learn from
PAPER = 1.0               # white shows through where a picture is transparent and holds no colours there
NEARLY = 0.004            # this near to 0 or 1 is 0 or 1: decoders of other programs are off by up to 1/255
SUBJECT = 0.5             # mask values above this are the subject
# deep modes
WHITE = {"F": 1.0, "I": 65535.0, "I;16": 65535.0, "I;16L": 65535.0, "I;16B": 65535.0, "I;16N": 65535.0}
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError,
              struct.error)


def read_picture(path: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (picture (h, w, 3), alpha (h, w) or None), float32 from 0 to 1, EXIF rotation applied, first
    frame.

    Palette, greyscale, CMYK, 16-bit and transparent pictures are converted; transparent ones lie on white
    where they hold no colours (see over_paper), and an alpha that is opaque everywhere counts as none. An
    animation is its first frame, and the log says so. Raises ESCDiffError with one sentence: missing, not a
    picture, damaged, too large, too small.
    """
    image = _open(Path(path))
    if image.mode in WHITE:
        return check_picture(np.repeat(_deep(image, str(path))[..., None], 3, axis=2), str(path)), None
    if image.has_transparency_data:
        return _over_paper(np.asarray(image.convert("RGBA"), dtype=np.float32) / 255, str(path))
    return check_picture(np.asarray(image.convert("RGB"), dtype=np.float32) / 255, str(path)), None


def read_mask(path: str | Path) -> np.ndarray:
    """Return a mask picture's brightness times its alpha, float32 (h, w) from 0 to 1. Raises as read_picture
    does."""
    image = _open(Path(path))
    if image.mode in WHITE:
        return _deep(image, str(path))
    grey = np.asarray(image.convert("LA"), dtype=np.float32) / 255  # LA keeps the alpha of palettes too
    return grey[..., 0] * grey[..., 1]


def picture_from_array(array: np.ndarray, source: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The same for an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), with or without a batch of one before
    it.

    uint8, uint16, bool, or floats from 0 to 1. Raises ESCDiffError for anything else, NaN, and pictures too
    small.
    """
    array = _unit_range(array, source)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ESCDiffError(
            f"{source} has shape {array.shape}; needed: one picture (height, width, 3), values 0 to 1"
        )
    if array.shape[2] == 4:
        return _over_paper(array, source)
    return check_picture(np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array, source), None


def mask_from_array(array: np.ndarray, source: str) -> np.ndarray:
    """A mask array (h, w), (1, h, w) or (h, w, 1) of the same dtypes, as float32 (h, w) from 0 to 1."""
    array = _unit_range(array, source)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2:
        raise ESCDiffError(
            f"{source} has shape {array.shape}; needed: (height, width), 1 for the subject, 0 elsewhere"
        )
    return array


def check_picture(picture: np.ndarray, source: str) -> np.ndarray:
    """Return ``picture`` (h, w, 3) if it is large enough to learn from, else raise ESCDiffError."""
    height, width = picture.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise ESCDiffError(
            f"{source} is {width}×{height} pixels; needed: at least {SMALLEST_SIDE} on each side"
        )
    return np.ascontiguousarray(picture, dtype=np.float32)


def _open(path: Path) -> Image.Image:
    """Open and fully decode a picture file, upright."""
    if not path.exists():
        raise ESCDiffError(f"picture {path} does not exist; give a PNG, JPEG or WebP file")
    if not path.is_file():
        raise ESCDiffError(f"{path} is not a file; give a PNG, JPEG or WebP file")
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=formats) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise ESCDiffError(_too_large(path, f" ({image.width}×{image.height})"))
                # MPO: a photo and its preview
                if getattr(image, "is_animated", False) and image.format != "MPO":
                    log.warning("%s has %d frames; the first is used", path, image.n_frames)
                    image.seek(0)
                image.load()
                return ImageOps.exif_transpose(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ESCDiffError(_too_large(path)) from error
    except UnidentifiedImageError as error:
        raise ESCDiffError(
            f"{path} is not a picture that can be read; give a PNG, JPEG or WebP file"
        ) from error
    except ESCDiffError:
        raise
    except UNREADABLE as error:
        why = " ".join(str(error).split())[:120]
        raise ESCDiffError(f"{path} is a damaged picture ({why}); export or download it again") from error


def _too_large(path: Path, size: str = "") -> str:
    return (
        f"{path} has too many pixels{size}; allowed are {MOST_PIXELS // 1_000_000} million: make it smaller"
    )


def over_paper(picture: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Lay ``picture`` (h, w, 3) on white where ``visible`` (h, w) is below 1, if all is black where nothing
    is visible.

    Black is what programs leave under a cut-out. Any other colours are the ground the subject stood on, and
    stay: they reach the model too when the transparency comes as a mask of its own, so that both ways give
    the same picture.
    """
    hidden = visible <= NEARLY
    if not hidden.any() or picture[hidden].max() > NEARLY:
        return picture
    return (picture * visible[..., None] + PAPER * (1 - visible[..., None])).astype(np.float32)


def check_mask(mask: np.ndarray, size: tuple[int, int], source: str, given: bool = False) -> None:
    """Raise ESCDiffError for a mask (h, w) that is empty, full, not of ``size``, or, if ``given``, the wrong
    way round."""
    if mask.shape != size:
        raise ESCDiffError(
            f"{source} is {mask.shape[1]}×{mask.shape[0]} pixels, the picture {size[1]}×{size[0]}; "
            "give a mask of the picture's size"
        )
    subject = mask > SUBJECT
    if not subject.any():
        raise ESCDiffError(f"{source} is empty: no subject is marked; paint the subject white, or ‹no mask›")
    if subject.all():
        raise ESCDiffError(f"{source} is full: everything is marked as subject; paint the background black, "
                           "or ‹no mask›")
    if given and all(edge.all() for edge in (subject[0], subject[-1], subject[:, 0], subject[:, -1])):
        raise ESCDiffError(
            f"{source} marks the border all round and leaves out the middle, so the background would "
            "be learned; ‹invert›"
        )


def _over_paper(rgba: np.ndarray, source: str) -> tuple[np.ndarray, np.ndarray | None]:
    rgb, alpha = check_picture(rgba[..., :3], source), np.ascontiguousarray(rgba[..., 3])
    return (rgb, None) if alpha.min() >= 1 - NEARLY else (over_paper(rgb, alpha), alpha)


def _deep(image: Image.Image, source: str) -> np.ndarray:
    """A greyscale picture of more than 8 bits as float32 (h, w) from 0 to 1; Pillow opens the other deep ones
    in 8."""
    values = np.asarray(image).astype(np.float32) / WHITE[image.mode]
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise ESCDiffError(
            f"{source} holds NaN or values outside black and white; save it as an ordinary 8-bit or "
            "16-bit picture"
        )
    return values


def _unit_range(array: np.ndarray, source: str) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype in (np.uint8, np.uint16):
        return array.astype(np.float32) / np.iinfo(array.dtype).max
    if array.dtype != bool and not np.issubdtype(array.dtype, np.floating):
        raise ESCDiffError(f"{source} has dtype {array.dtype}; needed: uint8, uint16, or floats from 0 to 1")
    array = array.astype(np.float32)
    if array.size and not np.isfinite(array).all():
        raise ESCDiffError(f"{source} holds NaN or infinite values; needed: floats from 0 to 1")
    if array.size and (array.min() < -1e-3 or array.max() > 1 + 1e-3):
        raise ESCDiffError(
            f"{source} holds values from {array.min():.3g} to {array.max():.3g}; needed: floats from 0 "
            "to 1 (or uint8)"
        )
    return np.clip(array, 0, 1)
