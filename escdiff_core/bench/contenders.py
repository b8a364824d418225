"""Who is compared: our recipes, those of the field, and our own with one thing changed. Rows of tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..learning.recipes import DEFAULTS, RECIPES, Recipe, find_recipe

ENDLESS = 100_000


@dataclass(frozen=True)
class Contender:
    """A way to learn both kinds: a recipe for each, ``changes`` to its fields, kind by kind, and whether a
    pre-trained filter starts it.

    ``shown``: kinds that are not learned but shown while drawing, and how: by ``words`` alone (the floor), as
    a ``style`` (shared_attention), or as the ``start`` of image-to-image, of which the last ``denoise`` of
    the schedule is drawn anew. All rates of the recipe for a kind are multiplied by its ``rates``.
    ``overlap`` is of choices.OVERLAPS; published deltas add. ``question`` is what a user would ask, for rows
    of ABLATIONS.
    """

    name: str
    recipes: Mapping[str, str] = field(default_factory=lambda: DEFAULTS)
    changes: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    pretrained: bool = True
    # which features of the reference its filter is given: the unet's, clip's, or both
    sees: str = "both"
    describe: bool = True            # the rest of the reference is put into words
    shown: Mapping[str, str] = field(default_factory=dict)
    denoise: Mapping[str, float] = field(default_factory=dict)
    overlap: str = "divide"
    question: str = ""

    def learns(self, kind: str | None = None) -> bool:
        """Is ``kind`` (None: any kind) learned, not shown?"""
        return kind not in self.shown if kind else len(self.shown) < len(DEFAULTS)

    def mixes(self) -> bool:
        """Can it bring both kinds at once? A drawing starts from one picture alone."""
        return list(self.shown.values()).count("start") < 2

    def recipe(self, kind: str) -> Recipe:
        """The recipe for ``kind``, ready to run for as long as it is given."""
        recipe = find_recipe(self.recipes[kind], kind, **{"steps": ENDLESS, **self.changes.get(kind, {})})
        factor = self.rates.get(kind, 1)
        return replace(
            recipe, **{k: getattr(recipe, k) * factor for k in ("lr_weights", "lr_token", "lr_filter")}
        )

    def way(self, kind: str) -> tuple:
        """All that says how ``kind`` is learned: contenders of one way learn the same."""
        return self.recipe(kind).hash(), self.pretrained, self.sees, self.describe


# The papers' rates are for a model a hundred times as large and for hundreds of steps; for each kind they are
# multiplied by the best of FACTORS, found on a pair that the table of methods does not use
# (benchmarks/rates.md). A method that is not in the table keeps its paper's.
FACTORS = (1, 3, 10, 30, 100, 300)
BEST: Mapping[str, Mapping[str, float]] = {
    name: dict(zip(DEFAULTS, factors, strict=True))
    for name, factors in {
        "textual-inversion": (1, 3), "dreambooth": (30, 30), "custom-diffusion": (300, 100), "p-plus": (
            10, 10), "prospect": (30, 100), "neti": (30, 30), "e4t": (30, 30), "b-lora": (
                100, 100), "unziplora": (30, 100), "ostaf": (10, 3), "forgedit": (30, 10),
    }.items()
}
# Of image-to-image, found in the same way
DENOISES = (0.5, 0.6, 0.7, 0.8, 0.9)
BEST_DENOISE: Mapping[str, float] = {"shape": 0.7, "appearance": 0.9}


def _of_field(name: str, recipe: Recipe, rates: Mapping[str, float]) -> Contender:
    return Contender(name, dict.fromkeys(DEFAULTS, recipe.name), rates=rates, pretrained=recipe.filter_scale
                     > 0, overlap="add")


_FIELD = {name: recipe for name, recipe in RECIPES.items() if recipe.kind == "concept"}
_PRIOR = "dreambooth-prior"          # DreamBooth with one thing changed: an ablation
_OURS = (
    Contender("escdiff"),
    Contender("escdiff-paper", {kind: f"{name}-paper" for kind, name in DEFAULTS.items()}, overlap="add"),
)
# both of whose kinds change the same weights
_OVERLAPPING = ("dreambooth", "custom-diffusion", "e4t", "unziplora")
_SHOWN = (Contender("style-aligned", shown={"appearance": "style"}),
          Contender("image-to-image", shown={"shape": "start", "appearance": "start"}, denoise=BEST_DENOISE),
          Contender("nothing learned", shown={"shape": "start", "appearance": "style"}, denoise=BEST_DENOISE))
_PUBLISHED = {
    name: _of_field(name, recipe, BEST.get(name, dict.fromkeys(DEFAULTS, 1)))
    for name, recipe in _FIELD.items()
    if name != _PRIOR
}
PLAIN = Contender(
    "plain", shown=dict.fromkeys(DEFAULTS, "words"), question="What is there without any attribute?"
)

CONTENDERS: Mapping[str, Contender] = {c.name: c for c in (
    *_OURS, *_PUBLISHED.values(), *_SHOWN, replace(_OURS[0], name="escdiff-added", overlap="add"),
    *(replace(_PUBLISHED[name], name=f"{name}-divided", overlap="divide") for name in _OVERLAPPING))}

RATES: Mapping[str, Contender] = {
    c.name: c
    for c in (_of_field(f"{name} x{factor}", recipe, dict.fromkeys(DEFAULTS, factor))
              for name, recipe in _FIELD.items() if name != _PRIOR for factor in FACTORS)
} | {
    c.name: c
    for c in (replace(CONTENDERS["image-to-image"], name=f"image-to-image at {denoise}",
                      denoise=dict.fromkeys(DEFAULTS, denoise)) for denoise in DENOISES)
}


def _both(**changes: object) -> Mapping[str, Mapping[str, object]]:
    return dict.fromkeys(DEFAULTS, changes)


ABLATIONS: Mapping[str, Contender] = {
    c.name: c
    for c in
    (Contender("default", question="What do the defaults give?"),
     Contender("filter trained along", pretrained=False, question="What does a pre-trained filter buy?"),
     Contender("UNet features alone", pretrained=False, sees="unet",
               question="Does the filter need OpenCLIP's features?"),
     Contender("OpenCLIP features alone", pretrained=False, sees="clip", question="And the UNet's?"),
     Contender("no filter", changes=_both(filter_scale=0.0), question="Is a filter needed at all?"),
     Contender("no augmentation", changes=_both(augmentation="none"), question="What do the views buy?"),
     Contender("views of its own", changes={"shape": {"augmentation": "recolour-own"},
                                            "appearance": {"augmentation": "reshape-own"}},
               question="Can the model draw them itself?"),
     Contender("no augmentation, not described", changes=_both(augmentation="none"), describe=False,
               question="And if the rest of the picture is not put into words either?"),
     Contender("views without words", changes=_both(
         templates=("a photo of a {token}",
                    "a {token}")), question="Must the prompt name what a view changes?"),
     Contender(
         "as published", {kind: f"{name}-paper"
                          for kind, name in DEFAULTS.items()}, question=
         "Encoder for shape, decoder for appearance, each with its own token and the picture as it is?"),
     Contender("token in its own blocks only", changes=_both(preset="coarse-fine", plain_share=0.5,
                                                             reach="own"),
               question="Should each half see only its own token, as published?"),
     Contender("preset paper", changes=_both(
         preset="paper"), question="Encoder for shape, decoder for appearance?"),
     Contender("preset resolution", changes=_both(
         preset="resolution"), question="Coarse and fine layers of both paths?"),
     Contender("preset paper+middle", changes={"shape": {"preset": "paper+middle"}},
               question="The encoder with the middle for a shape?"),
     Contender("preset coarse-fine", changes={"shape": {"preset": "coarse-fine"}},
               question="A shape without the fine decoder?"),
     Contender("preset fine-decoder", changes={"appearance": {"preset": "fine-decoder"}},
               question="An appearance without the layer that feeds the fine decoder?"),
     Contender("preset whole", changes={"appearance": {"preset": "whole"}},
               question="All blocks for the appearance too?"),
     Contender("learned together", changes=_both(preset="coarse-fine", joint=True),
               question="Should both halves train and each attribute keep its own?"),
     Contender("attention's weights", changes=_both(scope="attention"),
               question="Attention's weights alone?"),
     Contender("whole weights", {kind: f"{name}-full"
                                 for kind, name in DEFAULTS.items()}, question="What do small files cost?"),
     Contender("rank 4", changes=_both(rank=4), question="And smaller ones?"),
     Contender("deltas add", overlap="add", question="Should both changes of a weight add in a mix?"),
     Contender("half the rate", changes=_both(lr_weights=0.025), question="Is the rate too high?"),
     Contender("twice the rate", changes=_both(lr_weights=0.1), question="Is the rate too low?"),
     Contender("batch 8", changes=_both(batch_size=8), question="Smaller batches, more steps?"),
     Contender("noisy timesteps", changes=_both(
         timesteps="layout"), question="More of the noisy timesteps, those of layout?"),
     Contender("late timesteps", changes=_both(
         timesteps="material"), question="Or of the late ones, those of material?"),
     Contender("background counts fully", changes=_both(
         background_weight=1.0), question="Should the loss see the background?"),
     replace(CONTENDERS["dreambooth"], question="What does DreamBooth give?"),
     replace(CONTENDERS["dreambooth"], name=_PRIOR, recipes=dict.fromkeys(DEFAULTS, _PRIOR),
             question="And with prior preservation, a class picture for every other draw?"),
     )
}

TABLES: Mapping[str, Mapping[str,
                             Contender]] = {"methods": CONTENDERS, "ablations": ABLATIONS, "rates": RATES}
TITLES: Mapping[str, str] = {
    "methods": "Every method on the same references",
    "ablations": "One thing changed at a time",
    "rates": "How fast each method should learn",
}
