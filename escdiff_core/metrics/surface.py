"""Read a subject's surface as one signal: where each pixel lies between the subject's two main colours."""

import numpy as np
from scipy import ndimage
from skimage.color import rgb2lab

STEEPEST = 0.25       # relative change of brightness over half a picture that still is shading, not a pattern
SMOOTHING = 1.0       # pixels; the finest pattern of the pocket world has bars of 5


def inside(mask: np.ndarray, margin: int) -> np.ndarray:
    """The mask bool (h, w) without its outer ``margin`` pixels, or as it is when too little would be left."""
    inner = ndimage.binary_erosion(mask, iterations=margin)
    return inner if inner.sum() > 0.3 * mask.sum() else mask


def smooth(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Blur (h, w, 3) inside the mask only, so that noise goes and the background does not come in."""
    weight = mask.astype(np.float32)
    cover = np.maximum(ndimage.gaussian_filter(weight, SMOOTHING), 1e-3)[..., None]
    return ndimage.gaussian_filter(image * weight[..., None], (SMOOTHING, SMOOTHING, 0)) / cover


def colour_spread(image: np.ndarray, mask: np.ndarray) -> float:
    """CIELAB distance between the ends of the subject's colours, soft shading over ``image`` (h, w, 3) taken
    out."""
    rows, columns = np.nonzero(mask)
    pixels = image[mask]
    colour = pixels.mean(0)
    places = np.stack([columns - columns.mean(), rows - rows.mean()], 1) / (max(mask.shape) / 2)    # (n, 2)
    # Shading multiplies: every channel slopes alike, in proportion to the colour.
    brightness = (pixels - colour) @ colour / max(float(colour @ colour), 1e-4)
    slope = np.clip(np.linalg.lstsq(places, brightness, rcond=None)[0], -STEEPEST, STEEPEST)
    lab = rgb2lab(np.clip(pixels / (1 + places @ slope)[:, None], 0, 1)).astype(np.float32)
    position = (lab - lab.mean(0)) @ np.linalg.eigh(np.cov(lab.T))[1][:, -1]
    low, high = np.percentile(position, (4, 96))
    return float(high - low)


def signal(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Position of every pixel of an sRGB picture between the subject's two colours, float32 (h, w), 0 to
    1."""
    lab = rgb2lab(np.clip(image, 0, 1)).astype(np.float32)
    pixels = lab[mask]
    centre = pixels.mean(0)
    position = (lab - centre) @ np.linalg.eigh(np.cov((pixels - centre).T))[1][:, -1]
    low, high = np.percentile(position[mask], (4, 96))
    return np.clip((position - low) / max(high - low, 1e-3), 0, 1).astype(np.float32)
