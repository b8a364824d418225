"""Pictures and reports on disk, never half of one; and labelled sheets: rows with a title, each picture with
a line below it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .whole import unfinished

MARGIN, LINE = 10, 16


def to_bytes(image: np.ndarray) -> np.ndarray:
    """A picture in 0 to 1 as uint8."""
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def save_picture(image: np.ndarray, path: Path) -> None:
    """Write a picture (h, w, 3), 0 to 1, as PNG."""
    with unfinished(path) as file:
        Image.fromarray(to_bytes(image)).save(file, "PNG")


def save_report(report: dict, path: Path) -> None:
    """Write JSON."""
    save_text(json.dumps(report, indent=1) + "\n", path)


def save_text(text: str, path: Path) -> None:
    """Write a text file."""
    with unfinished(path) as file:
        file.write_text(text)


Rows = Sequence[tuple[str, Sequence[tuple[np.ndarray, str]]]]     # (title, [(picture, label), …])


def draw_sheet(rows: Rows, path: Path, columns: int = 8, zoom: int = 1) -> None:
    """Write ``rows`` as one PNG; see :func:`compose_sheet`."""
    compose_sheet(rows, columns, zoom).save(path)


def compose_sheet(rows: Rows, columns: int = 8, zoom: int = 1) -> Image.Image:
    """Lay ``rows`` out under each other, all ``zoom`` times as large; long rows wrap after ``columns``
    pictures."""
    columns = min(columns, max(len(items) for _, items in rows))
    side = max(p.shape[0] for _, items in rows for p, _ in items) * zoom
    wide = max(p.shape[1] for _, items in rows for p, _ in items) * zoom
    margin, line = MARGIN * zoom, LINE * zoom
    lines = [(title if start == 0 else "", items[start:start + columns])
             for title, items in rows for start in range(0, len(items), columns)]
    cell_w, cell_h = wide + margin, side + 3 * line
    height = sum(cell_h + (line + 4 * zoom if title else 0) for title, _ in lines) + margin
    sheet = Image.new("RGB", (columns * cell_w + margin, height), "white")
    draw, font, large = ImageDraw.Draw(sheet), ImageFont.load_default(size=11 * zoom), ImageFont.load_default(
        size=14 * zoom)
    y = margin
    for title, items in lines:
        if title:
            draw.text((margin, y), title, fill="black", font=large)
            y += line + 4 * zoom
        for column, (picture, label) in enumerate(items):
            x = margin + column * cell_w
            drawn = Image.fromarray(to_bytes(picture))
            sheet.paste(
                drawn.resize((drawn.width * zoom, drawn.height * zoom), Image.Resampling.LANCZOS), (x, y)
            )
            for number, text in enumerate(_wrap(label, font, wide)[:3]):
                draw.text((x, y + picture.shape[0] * zoom + zoom + number * 13 * zoom), text, fill="#333333",
                          font=font)
        y += cell_h
    return sheet


def _wrap(text: str, font: ImageFont.ImageFont, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line] if line else lines
