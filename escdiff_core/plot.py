"""A curve as a picture: what every node that learns shows, so that it asks for no plotting package."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# pixels; drawn larger and scaled down, for smooth lines
SIZE, FINER = (600, 350), 2
LEFT, TOP, RIGHT, BOTTOM = 64, 34, 584, 304                 # of the frame, in pixels of SIZE
GREY, BLUE, INK, FAINT = "#bbbbbb", "#1f6fb2", "#333333", "#e6e6e6"


def plot_losses(losses: Sequence[float], title: str) -> Image.Image:
    """The losses over the steps, raw in grey and as a moving mean of a tenth of them in blue. What is not
    finite is left out."""
    raw = np.asarray(losses, np.float64)
    window = max(1, len(raw) // 10)
    smooth = np.convolve(raw, np.ones(window) / window, mode="valid") if len(raw) else raw
    finite = raw[np.isfinite(raw)]
    ys = ticks(float(finite.min()), float(finite.max())) if len(finite) else [0.0, 1.0]
    xs = [x for x in ticks(1, max(2, len(raw))) if x == int(x) and x <= max(2, len(raw))]
    low, high = ys[0], ys[-1]

    def at(step: float, loss: float) -> tuple[float, float]:
        along = (step - 1) / max(1, len(raw) - 1)
        return FINER * (LEFT + along * (RIGHT - LEFT)), FINER * (
            BOTTOM - (loss - low) / (high - low) * (BOTTOM - TOP)
        )

    picture = Image.new("RGB", (FINER * SIZE[0], FINER * SIZE[1]), "white")
    pen, font, large = ImageDraw.Draw(picture), ImageFont.load_default(11 * FINER), ImageFont.load_default(
        13 * FINER)
    for y in ys:
        pen.line([at(1, y), (FINER * RIGHT, at(1, y)[1])], FAINT, FINER)
        pen.text((FINER * (LEFT - 6), at(1, y)[1]), f"{y:g}", INK, font, "rm")
    for x in xs:
        if x >= 1:
            pen.text((at(x, low)[0], FINER * (BOTTOM + 6)), f"{x:g}", INK, font, "mt")
    pen.rectangle([FINER * v for v in (LEFT, TOP, RIGHT, BOTTOM)], outline=INK, width=FINER)
    for line, first, colour, width in ((raw, 1, GREY, 1), (smooth, window, BLUE, 2)):
        points = [at(first + i, y) for i, y in enumerate(line) if np.isfinite(y)]
        if len(points) > 1:
            pen.line(points, colour, FINER * width, "curve")
        elif points:
            (x, y), dot = points[0], FINER * 3
            pen.ellipse([x - dot, y - dot, x + dot, y + dot], colour)
    middle = FINER * (LEFT + RIGHT) / 2
    pen.text((middle, FINER * TOP / 2), title, INK, large, "mm")
    pen.text((middle, FINER * (SIZE[1] - 8)), "step", INK, font, "mb")
    pen.text((FINER * 6, FINER * 6), "loss", INK, font, "lt")
    return picture.resize(SIZE, Image.Resampling.LANCZOS)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values from just below ``low`` to just above ``high``, about ``about`` of them."""
    room = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(room / about))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(room / s - about))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]
