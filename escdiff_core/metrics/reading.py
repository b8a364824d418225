"""Read a picture once for every comparison that follows: its silhouette and its appearance."""

from dataclasses import dataclass

import numpy as np

from ..errors import ESCDiffError
from ..reference.subject import as_working, find_subject, mask_at
from .appearance import Appearance, appearance_of
from .shape import Silhouette, silhouette_of


@dataclass(frozen=True)
class Reading:
    """What the judge sees in one picture: ``mask`` bool (h, w) at working size, ``silhouette``,
    ``appearance``."""

    mask: np.ndarray
    silhouette: Silhouette
    appearance: Appearance


def read(image: np.ndarray, mask: np.ndarray | None = None) -> Reading:
    """Read a picture (h, w, 3), float 0 to 1; ``mask`` (h, w) is found on the plain background when not
    given.

    Raises ESCDiffError when there is no subject to be found, or the mask is empty.
    """
    image = as_working(image)
    found = find_subject(image).mask if mask is None else mask_at(mask, image.shape[:2])
    if found.sum() < 16:
        raise ESCDiffError("the mask is empty at the judge's working size; give one that covers the subject")
    return Reading(found, silhouette_of(found), appearance_of(image, found))


def read_or_none(image: np.ndarray) -> Reading | None:
    """Read a sample; ``None`` when it shows no subject on a plain background, which is a result, not a
    mistake.

    Raises ESCDiffError when ``image`` is not a picture at all.
    """
    image = as_working(image)
    try:
        return read(image)
    except ESCDiffError:
        return None
