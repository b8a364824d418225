"""Eight shapes for references from outside the pocket world, drawn by hand: outlines that nobody mistakes.

A shape is a list of strokes ``(how, points, value)`` painted over each other on a square of 128 × 128 pixels,
value 1 subject and 0 background. How: ``curve`` (closed, smooth through its points), ``corners`` (closed,
straight), ``disc`` (centre, radii), or a number: the width of an open smooth line.
"""

import numpy as np
from PIL import Image, ImageDraw

FINE = 8              # drawn this many times as large, then averaged
Stroke = tuple[str | float, list[tuple[float, float]], int]


def _smooth(points: np.ndarray, closed: bool) -> np.ndarray:
    """A Catmull-Rom spline through ``points`` (n, 2)."""
    ends = (points[-1:], points[:2]) if closed else (points[:1], points[-1:])
    p = np.concatenate([ends[0], points, ends[1]])
    t = np.linspace(0, 1, 24, endpoint=False)[:, None]
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return np.concatenate([curve.reshape(-1, 2), *(() if closed else (points[-1:],))])


def draw(strokes: list[Stroke], size: int = 128) -> np.ndarray:
    """The coverage of a shape, float32 (size, size), 0 to 1."""
    scale = FINE * size / 128
    canvas = Image.new("L", (size * FINE, size * FINE), 0)
    pen = ImageDraw.Draw(canvas)
    for how, points, value in strokes:
        fill, at = 255 * value, np.asarray(points, float)
        if how == "disc":
            (x, y), (a, b) = at * scale
            pen.ellipse((x - a, y - b, x + a, y + b), fill=fill)
        elif how in ("curve", "corners"):
            line = (_smooth(at, True) if how == "curve" else at) * scale
            pen.polygon([tuple(p) for p in line], fill=fill)
        else:
            line, half = _smooth(at, False) * scale, how * scale / 2
            pen.line([tuple(p) for p in line], fill=fill, width=round(2 * half), joint="curve")
            for x, y in line[::6]:
                pen.ellipse((x - half, y - half, x + half, y + half), fill=fill)
            x, y = line[-1]
            pen.ellipse((x - half, y - half, x + half, y + half), fill=fill)
    return np.asarray(canvas.reduce(FINE), np.float32) / 255


SHAPES: dict[str, list[Stroke]] = {
    "teapot": [(9, [(88, 50), (106, 42), (117, 54), (112, 72), (92, 86)], 1),
               ("curve", [(40, 84), (28, 76), (20, 60), (8, 46), (16, 40), (30, 50), (42, 60)], 1),
               ("disc", [(64, 72), (33, 30)], 1), ("corners", [(46, 96), (82, 96), (86, 106), (42, 106)], 1),
               ("disc", [(64, 44), (20, 8)], 1), ("disc", [(64, 32), (6, 6)], 1),
               ], "bird": [("curve", [(10, 48), (24, 40), (28, 30), (40, 24), (52, 30), (56, 44), (70, 54),
                                      (90, 62), (120, 62), (114, 72), (96, 80), (82, 90), (62, 96), (44, 90),
                                      (32, 76), (28, 58), (22, 52)], 1),
                           ("corners", [(8, 46), (27, 34), (28, 52)], 1),
                           ("curve", [(50, 58), (64, 34), (86, 12), (98, 10), (94, 26), (88, 50), (76, 70),
                                      (60, 74)], 1), (4.5, [(56, 92), (54, 112), (46, 116)], 1),
                           (4.5, [(70, 90), (70, 112), (62, 116)], 1),], "airplane": [
                               ("curve", [(64, 6), (71, 18), (72, 60), (69, 112), (64, 122), (59, 112),
                                          (56, 60), (57, 18)], 1),
                               ("corners", [(66, 42), (122, 78), (122, 90), (66, 72), (62, 72), (6, 90),
                                            (6, 78), (62, 42)], 1),
                               ("corners", [(66, 98), (88, 112), (88, 120), (66, 114), (62, 114), (40, 120),
                                            (40, 112), (62, 98)], 1), ("disc", [(92, 58), (5, 9)], 1),
                               ("disc", [(36, 58), (5, 9)], 1),
                           ], "hand": [("curve", [(40, 70), (44, 60), (64, 56), (88, 60), (94, 74), (92, 96),
                                                  (84, 118), (52, 118), (44, 98)], 1),
                                       (14, [(50, 74), (42, 44), (38, 24)], 1),
                                       (14, [(62, 66), (60, 36), (58, 13)], 1),
                                       (14, [(76, 66), (80, 38), (81, 17)], 1),
                                       (12, [(87, 72), (98, 48), (103, 32)], 1),
                                       (15, [(56, 104), (36, 88), (18, 70)], 1),],
    "guitar": [("disc", [(40, 92), (28, 27)], 1), ("disc", [(64, 68), (19, 19)], 1),
               (9, [(64, 68), (104, 24)], 1), ("corners", [(98, 23), (110, 8), (122, 18), (110, 33)], 1),
               ("disc", [(52, 80), (8, 8)], 0),],
    "key": [("disc", [(34, 40), (28, 28)], 1), ("disc", [(34, 40), (13, 13)], 0),
            ("corners", [(50, 52), (58, 44), (116, 102), (108, 110)], 1),
            ("corners", [(84, 86), (94, 78), (108, 64), (116, 72), (104, 84), (94, 94)], 1),
            ("corners", [(100, 102), (108, 94), (118, 84), (125, 91), (116, 101), (108, 110)], 1),
            ("corners", [(70, 72), (78, 64), (90, 52), (98, 60), (88, 70), (78, 80)], 1),], "dinosaur": [
                ("curve", [(6, 104), (24, 98), (38, 84), (46, 66), (62, 54), (76, 48), (82, 34), (84, 18),
                           (96, 10), (114, 14), (122, 24), (116, 31), (102, 33), (98, 46), (96, 66), (90, 84),
                           (74, 96), (50, 100), (28, 106), (10, 112)], 1),
                (12, [(58, 88), (54, 104), (52, 115)], 1), (12, [(80, 86), (84, 104), (82, 115)], 1),
                (8, [(52, 117), (62, 117)], 1), (8, [(82, 117), (94, 117)], 1),
                (6, [(92, 58), (104, 62), (106, 70)], 1),
            ], "elephant": [("curve", [(10, 58), (22, 38), (46, 30), (70, 34), (86, 40), (86, 70), (80, 88),
                                       (50, 86), (20, 88)], 1),
                            ("corners", [(14, 70), (34, 76), (34, 114), (16, 114)], 1),
                            ("corners", [(58, 76), (78, 76), (78, 114), (60, 114)], 1),
                            ("disc", [(90, 46), (19, 20)], 1),
                            (11, [(102, 48), (108, 66), (107, 88), (111, 101), (118, 102)], 1),
                            ("disc", [(78, 48), (15, 20)], 1), (4, [(12, 58), (5, 70), (6, 84)], 1),
                            ("corners", [(93, 60), (100, 58), (98, 80), (93, 80)], 1),],
}
