"""The pack's icon and banner for the registry: ``python docs/icon_and_banner.py`` draws icon.png and
banner.png beside it.

The demo's duck and giraffe's coat (escdiff_core/cli/drawings.py), and the one in the other; nothing here was
drawn by a model.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from escdiff_core.cli.drawings import COAT, DUCK, DUCK_COLOUR, PATCH, SIDE  # noqa: E402

NIGHT, WATER, WHITE, PALE = "#16324a", "#70acd1", "#ffffff", "#c9dcea"
# pixels of the demo's picture between patches, and between two of them
PATCHES, SEAM, FINER = 15.0, 2.6, 3


def outline(side: int) -> Image.Image:
    """The duck as a mask, ``side`` pixels wide, and its eye left out."""
    mask = Image.new("L", (side, side))
    pen, scale = ImageDraw.Draw(mask), side / SIDE
    for curve in DUCK:
        points = np.asarray((*curve, curve[0]), float) * scale
        line = CubicSpline(np.arange(len(points)), points, bc_type="periodic")(
            np.linspace(0, len(curve), 600)
        )
        pen.polygon([tuple(p) for p in line], fill=255)
    x, y, r = 43 * scale, 35 * scale, 3.4 * scale
    pen.ellipse([x - r, y - r, x + r, y + r], fill=0)
    return mask


def coat(side: int) -> Image.Image:
    """A giraffe's coat that fills a square of ``side`` pixels."""
    axis = (np.arange(side) + 0.5) / side * SIDE
    rows, columns = np.mgrid[-1:12, -1:12]
    spots = np.stack([(columns + 0.5 * (rows % 2)).ravel(), rows.ravel()], 1) * PATCHES
    spots = spots + np.random.default_rng(5).uniform(-0.3, 0.3, spots.shape) * PATCHES
    near, second = np.moveaxis(cKDTree(spots).query(np.stack(np.meshgrid(axis, axis), -1), k=2)[0], -1, 0)
    return Image.fromarray(np.where((second - near > SEAM)[..., None], PATCH, COAT).astype(np.uint8))


def tile(side: int, ground: str, filling: Image.Image | tuple, shape: Image.Image | None) -> Image.Image:
    """A rounded square with ``filling`` cut out by ``shape``, or by a disc."""
    picture = Image.new("RGBA", (side, side))
    ImageDraw.Draw(picture).rounded_rectangle([0, 0, side - 1, side - 1], side // 8, ground)
    if shape is None:
        shape = Image.new("L", (side, side))
        ImageDraw.Draw(shape).ellipse([side * 0.08, side * 0.08, side * 0.92, side * 0.92], fill=255)
    front = filling if isinstance(filling, Image.Image) else Image.new("RGB", (side, side), filling)
    picture.paste(front, (0, 0), shape)
    return picture


def icon(side: int) -> Image.Image:
    large = tile(side * FINER, WATER, coat(side * FINER), outline(side * FINER))
    return large.resize((side, side), Image.Resampling.LANCZOS)


def banner(width: int, height: int) -> Image.Image:
    w, h = width * FINER, height * FINER
    picture = Image.new("RGB", (w, h), NIGHT)
    pen = ImageDraw.Draw(picture)
    side, gap = round(h * 0.42), round(h * 0.17)
    left, top = (w - 3 * side - 2 * gap) // 2, round(h * 0.13)
    tiles = [tile(side, WATER, DUCK_COLOUR, outline(side)), tile(side, "#5f7a68", coat(side), None),
             tile(side, WATER, coat(side), outline(side))]
    sign = ImageFont.load_default(h * 0.13)
    for i, each in enumerate(tiles):
        x = left + i * (side + gap)
        picture.paste(each, (x, top), each)
        if i:
            pen.text((x - gap / 2, top + side / 2), "+="[i - 1], WHITE, sign, "mm")
    pen.text((w / 2, h * 0.72), "ESCDiff", WHITE, ImageFont.load_default(h * 0.15), "mm")
    pen.text(
        (w / 2, h * 0.87), "the shape of this, the look of that", PALE, ImageFont.load_default(h * 0.07), "mm"
    )
    return picture.resize((width, height), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    icon(400).quantize(128).save(HERE / "icon.png", optimize=True)
    banner(1050, 450).quantize(128).save(HERE / "banner.png", optimize=True)
