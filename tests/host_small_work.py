"""A node pack of no nodes that every tested server has beside ours: learning takes few views, and small ones
of a large model, what was learned is drawn in few steps, text encoders have few layers, and a background is
removed from a small picture.

Most of a short learning is the 64 pictures that a recipe draws and encodes first, and on SD 1.5 their 512
pixels. What is learned from them is another thing to test (test_views.py, test_tune.py); that a server
learns, stops, goes on and says so depends on neither. ComfyUI's background removal looks at 1024 pixels
whatever the picture has, which takes half a minute on two cores.
"""

import json
import sys
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

VIEWS, PIXELS, REMOVAL_PIXELS = 2, 64, 128
SEEN_STEPS = 2      # in which the box draws what it learned
TEXT_LAYERS = 4     # of the text encoders of checkpoints that are made for tests: ComfyUI's own have up to 32
NODE_CLASS_MAPPINGS: dict = {}      # what makes it a node pack


def few_views(recipes: dict) -> None:
    """Let no recipe of the table ``recipes`` take more than a few views."""
    for name, recipe in recipes.items():
        recipes[name] = replace(recipe, views=min(VIEWS, recipe.views))


def small_pictures(families: dict) -> None:
    """Let no model of the table ``families`` learn from larger pictures than these."""
    for name, family in families.items():
        families[name] = replace(family, native_size=min(PIXELS, family.native_size))


def few_layers() -> None:
    """Let ComfyUI's text encoders have as many layers as those of the checkpoints."""
    import comfy.sd1_clip

    comfy.sd1_clip.json = SimpleNamespace(
        load=lambda file: {**json.load(file), "num_hidden_layers": TEXT_LAYERS}
    )


def small_removal(model: type) -> None:
    """Let ComfyUI's background removal look at pictures of 128 pixels, a multiple of its largest patch."""
    encode = model.encode_image
    if encode.__name__ == "encode_small":
        return

    def encode_small(self, image):
        self.image_size = min(REMOVAL_PIXELS, self.image_size)
        return encode(self, image)

    model.encode_image = encode_small


def before_a_prompt(prompt: dict) -> dict:
    """Called by the server with each prompt: by then all packs are loaded, in whatever order."""
    for core in [name for name in list(sys.modules) if name.endswith("escdiff_core")]:
        few_views(import_module(f"{core}.learning.recipes").RECIPES)
        small_pictures(import_module(f"{core}.families").FAMILIES)
        import_module(f"{core.removesuffix('escdiff_core')}nodes.host.seen").STEPS = SEEN_STEPS
    if removal := sys.modules.get("comfy.bg_removal_model"):
        small_removal(removal.BackgroundRemovalModel)
    return prompt


# inside a running ComfyUI
if page := getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None):
    few_layers()
    page.add_on_prompt_handler(before_a_prompt)
