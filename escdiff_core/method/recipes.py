"""Everything that says how an attribute is learned, as rows of one table."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from ..errors import ESCDiffError, lookup
from ..words import with_articles
from .blocks import KINDS, PRESETS


@dataclass(frozen=True)
class Recipe:
    """How an attribute is learned. Each default carries its reason; ``benchmarks/`` holds the figures behind them."""

    name: str
    kind: str                                   # shape | appearance | concept
    preset: str                                 # which blocks train: a row of blocks.PRESETS
    token: str                                  # placeholder in prompts
    init_word: str                              # the word whose embedding the token starts from and whose norm it keeps
    word: str                                   # what stands for the token on a half that does not own it
    templates: tuple[str, ...]                  # of {token}, {rest} (the other attribute in words), {behind} (the background)
    rest: str = ""                              # what stands for {rest} where nothing is known of it
    form: str = "full"                          # full weights, or "lora" (Hu et al. 2021, through peft)
    rank: int = 16                              # of the LoRA form
    steps: int = 110                            # under a minute on two CPU cores with the pocket model
    batch_size: int = 16                        # (view, timestep, noise) draws of the one reference per step
    lr_weights: float = 5e-4                    # tuned per preset; see benchmarks/method.md
    lr_token: float = 5e-3
    lr_filter: float = 1e-3
    weight_decay: float = 0.0                   # the delta is small and its run short: nothing to decay
    warmup_steps: int = 10
    timesteps: str = "uniform"                  # a row of TIMESTEP_LAWS
    augmentation: str = "none"                  # a row of augment.AUGMENTATIONS
    views: int = 64                             # augmented pictures drawn and encoded once, before the first step
    plain_share: float = 0.5                    # how often the half that does not learn sees the plain word instead
    background_weight: float = 0.3              # of the loss outside the mask, before division by the mean
    feature_timestep: int = 250                 # where the reference features are read: shape and texture both visible
    filter_scale: float = 0.1                   # s in e = e_word + s * filter(features) (E4T)
    cached: bool = False                        # encoder features from a pool of draws; exact when the encoder is frozen
    pool: int = 256                             # draws in that pool

    def __post_init__(self):
        if self.kind not in (*KINDS, "concept"):
            raise ESCDiffError(f"unknown kind {self.kind!r}; known: {', '.join(KINDS)}, concept")
        lookup(PRESETS, self.preset, "preset")
        lookup(TIMESTEP_LAWS, self.timesteps, "timestep law")
        if self.form not in ("full", "lora"):
            raise ESCDiffError(f"unknown form {self.form!r}; known: full, lora")
        for name, low in (("steps", 0), ("batch_size", 1), ("views", 1), ("rank", 1), ("pool", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < low:
                raise ESCDiffError(f"{name} must be a whole number of at least {low}, not {value!r}")

    def prompt(self, form: int, token: str, rest: str, behind: str) -> str:
        """The training prompt of template number ``form``; templates that need a ``rest`` make room when there is none."""
        rest = rest or self.rest
        usable = [t for t in self.templates if rest or "with {rest}" not in t]
        text = usable[form % len(usable)].format(token=token, rest=rest, behind=behind)
        return with_articles(" ".join(text.split()))

    def hash(self) -> str:
        """Sixteen hex digits that change with any field."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


# Exponent of a uniform draw: t = T * u ** exponent. Below 1 favours high noise (layout), above 1 low noise (material).
TIMESTEP_LAWS: Mapping[str, float] = {"uniform": 1.0, "layout": 0.7, "material": 1.4}

_SHAPE = Recipe(
    name="escdiff-shape", kind="shape", preset="coarse-fine", token="*m", init_word="shape", word="object",
    templates=("a photo of a {rest} {token} {behind}", "a {rest} {token} {behind}", "a {token} with {rest} appearance {behind}"),
    augmentation="recolour", lr_weights=1e-3, timesteps="layout",
)
_APPEARANCE = Recipe(
    name="escdiff-appearance", kind="appearance", preset="fine-decoder+", token="*a", init_word="appearance", word="plain",
    rest="object",
    templates=("a photo of a {token} {rest} {behind}", "a {token} {rest} {behind}", "a {rest} with {token} appearance {behind}"),
    augmentation="reshape", lr_weights=1e-3,
)

RECIPES: Mapping[str, Recipe] = {r.name: r for r in (
    _SHAPE,
    _APPEARANCE,
    replace(_SHAPE, name="escdiff-shape-lora", form="lora", lr_weights=2e-3),
    replace(_APPEARANCE, name="escdiff-appearance-lora", form="lora", lr_weights=2e-3),
    replace(_SHAPE, name="escdiff-shape-paper", preset="paper", augmentation="none"),
    replace(_APPEARANCE, name="escdiff-appearance-paper", preset="paper", augmentation="none"),
)}
DEFAULTS: Mapping[str, str] = {"shape": "escdiff-shape", "appearance": "escdiff-appearance"}


def find_recipe(name: str, **changes) -> Recipe:
    """The recipe called ``name`` with ``changes`` (those that are not None) applied. Unknown names raise and list the known."""
    return replace(lookup(RECIPES, name, "recipe"), **{k: v for k, v in changes.items() if v is not None})
