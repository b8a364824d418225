"""Pictures and masks as a graph hands them on, (b, h, w, c) and (b, h, w) from 0 to 1: which mask is meant,
which picture."""

import logging

import numpy as np

from ..errors import ESCDiffError
from .decode import NEARLY, check_mask, mask_from_array, over_paper, picture_from_array
from .picture import Reference

log = logging.getLogger(__name__)
MOST_PICTURES = 16
# what Load Image hands on as the mask of a picture without transparency: zeros of this size
STAND_IN = (64, 64)


def references_of(images: np.ndarray, masks: np.ndarray | None, native_size: int) -> list[Reference]:
    """One Reference per picture (b, h, w, 1, 3 or 4); ``masks`` (b or 1, h, w), where an empty one is none.

    A fourth channel is the mask, and a given mask is then not used. Raises ESCDiffError for a video-sized
    batch, another number of masks, one mask for pictures that differ, and masks that fit no subject.
    """
    if len(images) > MOST_PICTURES:
        raise ESCDiffError(
            f"{len(images)} pictures were given; a reference is one picture, or at most "
            f"{MOST_PICTURES} of the same thing: take one out of the batch"
        )
    if masks is not None and len(masks) not in (1, len(images)):
        raise ESCDiffError(
            f"{len(masks)} masks for {len(images)} pictures; give one mask, or one for each picture"
        )
    given = [None if masks is None else meant(masks[i % len(masks)], "the mask of the picture")
             for i in range(len(images))]
    if len(images) > 1:
        differ = any(not np.array_equal(images[0], other) for other in images[1:])
        if (
            differ
            and masks is not None
            and len(masks) == 1
            and given[0] is not None
            and images.shape[-1] != 4
        ):
            raise ESCDiffError(
                f"there is one mask for {len(images)} different pictures; give one for each picture, "
                "or take one picture out (ImageFromBatch); the frames of an animation are pictures too"
            )
        if differ:
            log.warning(
                "all %d pictures are learned as one thing, the frames of an animation too; take one "
                "out (ImageFromBatch) if only one is meant",
                len(images),
            )
    made = [Reference.from_arrays(picture, "auto" if mask is None else mask, native_size)
            for picture, mask in zip(images, given, strict=True)]
    for mask, found in zip(given, made, strict=True):
        if found.mask is None:
            # the whole rectangle counts, which is seldom what was meant
            log.warning("give a mask if only a part of the picture is meant; %s", found.note)
        elif mask is not None and "not used" in found.note:
            log.warning(found.note)
    return made


def subject_of(
    image: np.ndarray, mask: np.ndarray | None, source: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """A picture (h, w, 3) and its mask (h, w), or None, by the same rules at the picture's own size.

    Raises ESCDiffError for a mask of another size, empty, full, or the wrong way round.
    """
    picture, alpha = picture_from_array(image, source)
    if alpha is not None:
        check_mask(alpha, picture.shape[:2], f"the transparency of {source}")
        return picture, alpha
    found = None if mask is None else meant(mask, f"the mask of {source}")
    if found is None:
        return picture, None
    check_mask(found, picture.shape[:2], f"the mask of {source}", given=True)
    return over_paper(picture, found), found


def meant(mask: np.ndarray, source: str) -> np.ndarray | None:
    """The mask (h, w), or None where it says nothing: empty, or Load Image's stand-in, which is told when it
    was inverted."""
    mask = mask_from_array(mask, source)
    # decoders leave up to 1/255 behind in an opaque picture's own mask
    if not mask.size or mask.max() <= NEARLY:
        return None
    if mask.shape == STAND_IN and mask.min() >= 1 - NEARLY:
        log.warning(
            "%s is the one that Load Image gives for a picture without transparency, inverted: it "
            "marks nothing, so the subject is looked for on a plain background; take InvertMask and "
            "the mask away",
            source,
        )
        return None
    return mask
