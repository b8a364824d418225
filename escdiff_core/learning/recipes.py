"""Everything that says how an attribute is learned, as rows of one table."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from ..choices import FORMS, LAYOUTS, REACHES, STAGES
from ..errors import ESCDiffError, lookup
from ..unet.blocks import KINDS, PRESETS, SCOPES
from ..words import with_articles


@dataclass(frozen=True)
class Recipe:
    """How an attribute is learned. Each default carries its reason; ``benchmarks/`` holds the figures behind
    them."""

    name: str
    kind: str                                   # shape | appearance | concept
    preset: str                                 # which blocks train: a row of blocks.PRESETS
    token: str                                  # placeholder in prompts
    # the word whose embedding the token starts from and whose norm it keeps
    init_word: str
    word: str                                   # what stands for the token on a half that does not own it
    # of {token}, {rest} (the other attribute in words), {behind} (the background)
    templates: tuple[str, ...]
    rest: str = ""                              # what stands for {rest} where nothing is known of it
    form: str = "full"                          # a row of forms.FORMS: whole weights, LoRA, ...
    rank: int = 16                              # of the LoRA forms
    scope: str = "all"                          # a row of blocks.SCOPES: which tensors of the blocks train
    # the preset's blocks of both kinds train, those of the own kind are kept
    joint: bool = False
    # of the token: one vector, or one per layer or stage (see tokens.py)
    layout: str = "one"
    # of a token by stages: those kept (0: least noisy tenth); the rest is the word
    stages: tuple[int, int] = (0, STAGES)
    reach: str = "own"                          # which blocks see the token when drawing: its own, or all
    steps: int = 110                            # under a minute on two CPU cores with the pocket model
    batch_size: int = 16                        # (view, timestep, noise) draws of the one reference per step
    lr_weights: float = 5e-4                    # of blocks that train whole, in about a hundred steps
    lr_token: float = 5e-3
    # both are shares of each tensor's own scale (see rates), the same on a model of any width
    relative: bool = False
    lr_filter: float = 1e-3
    weight_decay: float = 0.0                   # the delta is small and its run short: nothing to decay
    warmup_steps: int = 10
    # the attribute is the mean over about the last such share of the steps; 0: the last
    average: float = 0.2
    timesteps: str = "uniform"                  # a row of TIMESTEP_LAWS
    augmentation: str = "none"                  # a row of views.view_sources()
    # augmented pictures drawn and encoded once, before the first step
    views: int = 64
    # pictures of the plain word, drawn by the model itself, that it is to keep
    prior: int = 0
    # how often the blocks that do not learn see the plain word instead
    plain_share: float = 1.0
    background_weight: float = 0.3              # of the loss outside the mask, before division by the mean
    # where the reference features are read: shape and texture both visible
    feature_timestep: int = 250
    filter_scale: float = 0.1                   # s in e = e_word + s * filter(features) (E4T)
    # encoder features from a pool of draws; exact when the encoder is frozen
    cached: bool = False
    # draws in it, to the next batch; 0: so many that each is used REUSE times
    pool: int = 0

    def __post_init__(self):
        if self.kind not in (*KINDS, "concept"):
            raise ESCDiffError(f"unknown kind {self.kind!r}; known: {', '.join(KINDS)}, concept")
        lookup(PRESETS, self.preset, "preset")
        lookup(TIMESTEP_LAWS, self.timesteps, "timestep law")
        lookup(SCOPES, self.scope, "scope")
        for what, known in (("form", FORMS), ("layout", LAYOUTS), ("reach", REACHES)):
            lookup(dict.fromkeys(known), getattr(self, what), what)
        if self.form == "two-loras" and self.layout != "one":
            raise ESCDiffError(
                f"form 'two-loras' goes with layout 'one', not {self.layout!r}: it gives every layer "
                "three prompts"
            )
        for name, low in (
            ("steps", 0),
            ("batch_size", 1),
            ("views", 1),
            ("prior", 0),
            ("rank", 1),
            ("pool", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < low:
                raise ESCDiffError(f"{name} must be a whole number of at least {low}, not {value!r}")

    def prompt(self, form: int, token: str, rest: str, behind: str) -> str:
        """The training prompt of template number ``form``; templates that need a ``rest`` make room when
        there is none."""
        rest = rest or self.rest
        usable = [t for t in self.templates if rest or "with {rest}" not in t]
        text = usable[form % len(usable)].format(token=token, rest=rest, behind=behind)
        return with_articles(" ".join(text.split()))

    def hash(self) -> str:
        """Sixteen hex digits that change with any field."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


# Exponent of a uniform draw: t = T * u ** exponent. Below 1 favours high noise (layout), above 1 low noise
# (material).
TIMESTEP_LAWS: Mapping[str, float] = {"uniform": 1.0, "layout": 0.7, "material": 1.4}

# What goes with a kind, whichever way it is learned
WORDS: Mapping[str, Mapping[str, object]] = {
    "shape": {
        "token": "*m",
        "init_word": "shape",
        "word": "object",
        "stages": (4, STAGES),
        "templates": (
            "a photo of a {rest} {token} {behind}",
            "a {rest} {token} {behind}",
            "a {token} with {rest} appearance {behind}",
        ),
    },
    "appearance": {
        "token": "*a",
        "init_word": "appearance",
        "word": "plain",
        "rest": "object",
        "stages": (0, 4),
        "templates": (
            "a photo of a {token} {rest} {behind}",
            "a {token} {rest} {behind}",
            "a {rest} with {token} appearance {behind}",
        ),
    },
    "concept": {
        "token": "*c",
        "init_word": "object",
        "word": "object",
        "templates": ("a photo of a {token} {behind}", "a {token} {behind}"),
    },
}

# A share of each matrix's own scale (see rates), so that a row is for models of every width
_RELATIVE = {"relative": True, "lr_weights": 0.05, "lr_token": 0.22, "steps": 70}
# Every block sees both tokens: what the prompt explains the token need not learn, so it does not leak, and a
# mix keeps far more of an appearance that the coarse blocks know of.
_SHAPE = Recipe(name="escdiff-shape", kind="shape", preset="whole", form="lora", augmentation="recolour",
                plain_share=0.0, reach="all", **_RELATIVE, **WORDS["shape"])
_APPEARANCE = Recipe(name="escdiff-appearance", kind="appearance", preset="fine-decoder+", form="lora",
                     augmentation="reshape", plain_share=0.0, reach="all", **_RELATIVE, **WORDS["appearance"])
# Twice the steps of a quarter of the draws, at half the rate: as far in the end, and it fits small cards
_FULL_SIZE = {"lr_weights": 0.025, "lr_token": 0.11, "steps": 240, "batch_size": 4}
_PAPER = {
    "preset": "paper", "form": "full", "augmentation": "none", "reach": "own", "steps": 110
}
# A method of the field: learns a whole subject, or either kind of attribute (find_recipe). One picture as it
# is, its token seen by every block, and but for E4T no filter. Rates and batches are the papers'.
_FIELD = Recipe(name="", kind="concept", preset="whole", reach="all", plain_share=0.0, filter_scale=0.0,
                background_weight=1.0, views=1, **WORDS["concept"])

RECIPES: Mapping[str, Recipe] = {
    r.name: r
    for r in (
        _SHAPE,
        _APPEARANCE,
        # Whole weights: a far larger file. An appearance's outlines in a mix suffer when more than
        # attention's weights train.
        replace(_SHAPE, name="escdiff-shape-full", form="full", steps=95),
        replace(_APPEARANCE, name="escdiff-appearance-full", form="full", scope="attention", steps=110),
        # For full-size models. Not measured on a trained one.
        replace(_SHAPE, name="escdiff-shape-sd", **_FULL_SIZE),
        replace(_APPEARANCE, name="escdiff-appearance-sd", **_FULL_SIZE),
        # Their views' surfaces, grounds and outlines are what the model itself draws, and no drawings
        replace(_SHAPE, name="escdiff-shape-own", augmentation="recolour-own", **_FULL_SIZE),
        replace(_APPEARANCE, name="escdiff-appearance-own", augmentation="reshape-own", **_FULL_SIZE),
        # As published: encoder or decoder, each with its own prompt
        # alone, every block reads its prompt
        replace(_SHAPE, name="escdiff-shape-paper", plain_share=0.5, **_PAPER),
        replace(_APPEARANCE, name="escdiff-appearance-paper", plain_share=1.0, **_PAPER),
        # Gal et al. 2022: one token
        replace(_FIELD, name="textual-inversion", scope="token", lr_token=5e-3, batch_size=4),
        # Ruiz et al. 2023: the whole UNet, the token stays at its word
        replace(_FIELD, name="dreambooth", lr_weights=5e-6, lr_token=0.0, batch_size=4),
        replace(_FIELD, name="dreambooth-prior", lr_weights=5e-6, lr_token=0.0, batch_size=4, prior=16),
        # Kumari et al. 2023: keys and values of cross-attention, and the token
        replace(_FIELD, name="custom-diffusion", scope="cross-kv", lr_weights=1e-5, lr_token=1e-5,
                batch_size=2),
        # Voynov et al. 2023: a vector per cross-attention layer; coarse ones carry shape, the rest appearance
        replace(_FIELD, name="p-plus", scope="token", layout="layers", preset="resolution", joint=True,
                lr_token=5e-3, batch_size=8),
        # Zhang et al. 2023: a vector per tenth of the schedule; noisy stages carry layout, late ones material
        replace(_FIELD, name="prospect", scope="token", layout="stages", lr_token=1e-4, batch_size=4),
        # Alaluf et al. 2023: a vector per layer and tenth of the schedule; NeTI's come from a small network,
        # these are free
        replace(_FIELD, name="neti", scope="token", layout="layers+stages", preset="resolution", joint=True,
                lr_token=1e-3, batch_size=8),
        # Gal et al. 2023: a pre-trained filter, then few steps of the whole UNet
        replace(_FIELD, name="e4t", filter_scale=0.1, lr_weights=1.6e-5, lr_token=0.0, batch_size=16, steps=30
                ),
        # Frenkel et al. 2024: LoRAs of two layers, learned together, used apart
        replace(_FIELD, name="b-lora", form="lora", preset="b-lora", joint=True, lr_weights=5e-5,
                lr_token=0.0, batch_size=1),
        # Liu et al. 2024: two LoRAs of the same layers, learned together, each with its prompt and columns
        replace(_FIELD, name="unziplora", form="two-loras", scope="attention", lr_weights=5e-5, lr_token=0.0,
                batch_size=1),
        # 2403.11053: offsets of one half's attention weights, predicted by a small network
        replace(_FIELD, name="ostaf", form="offsets", scope="attention", preset="paper", lr_weights=1e-4,
                batch_size=4),
        # Zhang et al. 2024: token and both halves train, the other half is restored
        replace(_FIELD, name="forgedit", preset="paper", joint=True, lr_weights=6e-5, lr_token=1e-3,
                batch_size=10, steps=40),
    )
}
DEFAULTS: Mapping[str, str] = {"shape": "escdiff-shape", "appearance": "escdiff-appearance"}


def recipes_for(kind: str) -> list[str]:
    """The names of the recipes that learn ``kind``."""
    return [r.name for r in RECIPES.values() if r.kind in (kind, "concept")]


def find_recipe(name: str, kind: str | None = None, **changes) -> Recipe:
    """The recipe called ``name``, for ``kind`` (None: its own), with ``changes`` (those that are not None)
    applied.

    A recipe of kind ``concept`` learns any kind, with that kind's words. Raises ESCDiffError for a name that
    is unknown or learns another kind, and lists those that would do.
    """
    recipe = lookup(RECIPES, name, "recipe")
    if kind is not None and kind != recipe.kind:
        if recipe.kind != "concept":
            raise ESCDiffError(f"recipe {name!r} learns {recipe.kind}, not {kind}; recipes for {kind}: "
                               f"{', '.join(recipes_for(kind))}")
        recipe = replace(recipe, kind=kind, **lookup(WORDS, kind, "kind"))
    return replace(recipe, **{k: v for k, v in changes.items() if v is not None})
