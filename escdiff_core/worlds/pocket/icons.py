"""More silhouettes for training alone: things of an icon font that a package ships (PyPI fontawesomefree).
None is kept here."""

import json
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 256            # pixels of a drawn icon's longer side

# One word each, known by its outline; nothing that the world holds out (cat, rabbit, anchor, hammer, key,
# rocket, penguin …)
NAMES: tuple[str, ...] = (
    "bacon", "bath", "bed", "bell", "bicycle", "binoculars", "blender", "bolt", "bomb", "book", "bookmark",
    "box", "brain", "bridge", "briefcase", "broom", "brush", "bucket", "bug", "building", "bullhorn",
    "burger", "bus", "camera", "campground", "car", "caravan", "carrot", "chair", "cheese", "clipboard",
    "clover", "comment", "compass", "cookie", "couch", "cow", "crow", "crown", "crutch", "cube", "dice",
    "dog", "dove", "dragon", "drum", "dumbbell", "egg", "envelope", "eraser", "eye", "fan", "faucet",
    "feather", "ferry", "fire", "fish", "flag", "flask", "folder", "football", "frog", "gamepad", "gauge",
    "gavel", "gem", "ghost", "gift", "glasses", "guitar", "hand", "headphones", "headset", "heart",
    "helicopter", "highlighter", "hippo", "horse", "hospital", "hotdog", "hotel", "hourglass", "house",
    "igloo", "industry", "jar", "landmark", "laptop", "leaf", "lemon", "lightbulb", "lock", "lungs",
    "magnet", "map", "mask", "medal", "meteor", "microphone", "microscope", "mitten", "monument", "moon",
    "mosquito", "motorcycle", "mound", "mountain", "mug", "otter", "paintbrush", "palette", "paperclip",
    "passport", "paw", "pen", "phone", "pills", "plane", "plug", "print", "receipt", "ribbon", "robot",
    "rug", "sailboat", "satellite", "school", "scissors", "screwdriver", "scroll", "seedling", "shield",
    "ship", "shirt", "shrimp", "sink", "skull", "sleigh", "snowflake", "snowman", "snowplow", "socks",
    "spider", "spoon", "stamp", "stapler", "stethoscope", "stopwatch", "store", "suitcase", "sun",
    "syringe", "tag", "tape", "taxi", "tent", "thermometer", "thumbtack", "ticket", "toilet", "toolbox",
    "tooth", "tornado", "tractor", "trailer", "train", "trash", "trophy", "trowel", "truck", "tv",
    "umbrella", "vest", "vial", "volcano", "volleyball", "wallet", "warehouse", "wheelchair", "worm",
    "wrench",
)
HELD_OUT_ALIKE = frozenset(("sailboat",))      # too like a held-out shape


@lru_cache(maxsize=1)
def _font() -> tuple[ImageFont.FreeTypeFont, dict[str, int]]:
    """The font, and the place of each icon in it. Raises ModuleNotFoundError where the package is missing."""
    import fontawesomefree

    folder = Path(fontawesomefree.__file__).parent / "static" / "fontawesomefree"
    table = json.loads((folder / "metadata" / "icons.json").read_text())
    return ImageFont.truetype(folder / "webfonts" / "fa-solid-900.ttf", 300), {
        k: int(r["unicode"], 16) for k, r in table.items()
    }


def names() -> tuple[str, ...]:
    """The icons to train on, without those that the world draws or holds out itself."""
    from . import shapes

    return tuple(n for n in NAMES if n not in shapes.ALL and n not in HELD_OUT_ALIKE)


@cache
def stencil(name: str) -> np.ndarray:
    """The icon's coverage, uint8 (SIDE, SIDE), its longer side filling the square, centred."""
    font, places = _font()
    left, top, right, bottom = font.getbbox(chr(places[name]))
    drawn = Image.new("L", (right - left, bottom - top), 0)
    ImageDraw.Draw(drawn).text((-left, -top), chr(places[name]), font=font, fill=255)
    drawn = drawn.crop(drawn.getbbox())
    scale = SIDE / max(drawn.size)
    drawn = drawn.resize([max(1, round(s * scale)) for s in drawn.size], Image.LANCZOS)
    page = Image.new("L", (SIDE, SIDE), 0)
    page.paste(drawn, ((SIDE - drawn.width) // 2, (SIDE - drawn.height) // 2))
    return np.asarray(page)
