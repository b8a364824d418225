"""A node pack of no nodes that every tested server has beside ours: learning takes few views, and small ones
of a large model.

Most of a short learning is the 64 pictures that a recipe draws and encodes first, and on SD 1.5 their 512
pixels. What is learned from them is another thing to test (test_views.py, test_tune.py); that a server
learns, stops, goes on and says so depends on neither.
"""

import sys
from dataclasses import replace

VIEWS, PIXELS = 2, 64
NODE_CLASS_MAPPINGS: dict = {}      # what makes it a node pack


def few_views(recipes: dict) -> None:
    """Let no recipe of the table ``recipes`` take more than a few views."""
    for name, recipe in recipes.items():
        recipes[name] = replace(recipe, views=min(VIEWS, recipe.views))


def small_pictures(families: dict) -> None:
    """Let no model of the table ``families`` learn from larger pictures than these."""
    for name, family in families.items():
        families[name] = replace(family, native_size=min(PIXELS, family.native_size))


def before_a_prompt(prompt: dict) -> dict:
    """Called by the server with each prompt: by then all packs are loaded, in whatever order."""
    for name, module in list(sys.modules.items()):
        if name.endswith("escdiff_core.learning.recipes"):
            few_views(module.RECIPES)
        elif name.endswith("escdiff_core.families"):
            small_pictures(module.FAMILIES)
    return prompt


# inside a running ComfyUI
if page := getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None):
    page.add_on_prompt_handler(before_a_prompt)
