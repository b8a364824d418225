"""The templates' thumbnails: what goes in, and what came out of it. All pictures are drawn with the pocket
model."""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).resolve().parent
PICTURES = HERE / "pictures"
SIZE = (480, 320)
GROUND, INK, QUIET = "#1f2024", "#f2f2f2", "#a9abb5"
SIDE, SMALL = 224, 120          # pixels of a result and of what it was learned from
MIX = [("shape", "A"), ("look", "B")]
# What stands on the left, the result, and the line below; of graphs for larger models it says who has drawn
# the picture
ROWS: dict[str, tuple[list[tuple[str, str]], str, str]] = {
    "pocket_quickstart": (MIX, "mix", "the shape of A, the look of B"),
    "shape_and_look": (MIX, "mix", "all in one box"),
    "shape_and_look_app": (MIX, "mix", "two pictures and a prompt"),
    "sd15_learn_shape": ([("shape", "A")], "shape_alone", "the shape of A, in any look"),
    "sd15_learn_appearance": ([("look", "B")], "look_alone", "the look of B, on any shape"),
    "sd15_mix": (MIX, "mix", "the shape of A, the look of B"),
    "sd15_mix_controlnet": (MIX, "mix", "with edges from a third picture"),
    "sd15_photographs": (MIX, "mix", "photographs, subjects cut out for you"),
    "batch": (MIX, "mix", "many pictures, from a script"),
    "sdxl_learn_shape": ([("shape", "A")], "shape_alone", "the shape of A, in any look"),
    "sdxl_learn_look": ([("look", "B")], "look_alone", "the look of B, on any shape"),
    "sdxl_mix": (MIX, "mix", "the shape of A, the look of B"),
}


def thumbnail(name: str) -> Image.Image:
    """The picture of the template ``name``, RGB, of ``SIZE``."""
    sources, result, line = ROWS[name]
    picture = Image.new("RGB", SIZE, GROUND)
    pen = ImageDraw.Draw(picture)
    words, small = ImageFont.load_default(19), ImageFont.load_default(13)
    left, top = 24, (SIZE[1] - 40 - len(sources) * SMALL - (len(sources) - 1) * 12) // 2
    for row, (file, letter) in enumerate(sources):
        y = top + row * (SMALL + 12)
        picture.paste(_opened(file, SMALL), (left + 24, y))
        pen.text((left + 8, y + SMALL / 2), letter, font=words, fill=INK, anchor="mm")
    middle, edge = (SIZE[1] - 40) / 2, left + 24 + SMALL
    pen.line([(edge + 14, middle), (edge + 38, middle)], fill=INK, width=4)
    pen.polygon([(edge + 36, middle - 9), (edge + 50, middle), (edge + 36, middle + 9)], fill=INK)
    picture.paste(_opened(result, SIDE), (edge + 62, round(middle - SIDE / 2)))
    pen.text((SIZE[0] / 2, SIZE[1] - 34), line, font=words, fill=INK, anchor="mm")
    if name.startswith(("sd15", "sdxl")) or name == "batch":
        pen.text((SIZE[0] / 2, SIZE[1] - 13), "picture drawn with the pocket model", font=small, fill=QUIET,
                 anchor="mm")
    return picture


def _opened(name: str, side: int) -> Image.Image:
    return Image.open(PICTURES / f"{name}.png").convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def draw_pictures(seed: int = 0) -> None:
    """Learn the quick start's two references with the usual recipes, and draw the pictures that the
    thumbnails show."""
    sys.path.insert(0, str(HERE.parent))
    from escdiff_core.bench.references import appearance_references, shape_references
    from escdiff_core.families.load import load_model
    from escdiff_core.learning.encoders import choose_encoder
    from escdiff_core.learning.learn import learn
    from escdiff_core.learning.recipes import DEFAULTS, find_recipe
    from escdiff_core.mixing.mix import Mix
    from escdiff_core.mixing.plan import Use
    from escdiff_core.pictures import save_picture
    from escdiff_core.reference import Reference
    from escdiff_core.worlds.pocket.world import render

    model, uses = load_model("pocket"), {}
    encoder = choose_encoder("auto", model)
    PICTURES.mkdir(exist_ok=True)
    for kind, name, spec in (
        ("shape", "shape", shape_references(1)[0]),
        ("appearance", "look", appearance_references(1)[0]),
    ):
        drawn = render(spec)
        save_picture(drawn.image, PICTURES / f"{name}.png")
        recipe = find_recipe(DEFAULTS[kind])
        uses[kind] = Use(learn(model, [Reference(drawn.image, drawn.mask)], recipe, seed, encoder=encoder)[0])
    shape, look, prompts = uses["shape"], uses["appearance"], "a {} on a white background"
    for name, used, prompt in (("mix", (shape, look), prompts.format("*m with *a appearance")),
                               ("shape_alone", (shape, None), prompts.format("green *m")),
                               ("look_alone", (None, look), prompts.format("star with *a appearance"))):
        save_picture(
            Mix(model, *used).draw([prompt], seed=seed, guidance_scale=model.usual_guidance)[0],
            PICTURES / f"{name}.png",
        )
