"""Stages 2 and 3 as nodes: the filters, tuning, and both in one box; pre-training of filters."""

from comfy_api.latest import io, ui

from ..escdiff_core.learning.recipes import DEFAULTS, RECIPES, recipes_for
from ..escdiff_core.unet.blocks import PRESETS
from .schema import (
    BLOCKS,
    Attribute,
    Encoder,
    Features,
    Look,
    LookToken,
    Shape,
    ShapeToken,
    advanced,
    mask_input,
    model_inputs,
    schema,
    seed_input,
)

AUTO = "recipe's own"
LEARNED = "For ESCDiff Mix and ESCDiff Save Attribute."
CLASS_WORD = (
    "What the subject is, in a word of the model: vase, cat. A shape's token starts from it; with an "
    "appearance it stands in the prompts of recipes that learn from the picture as it is. Empty is "
    "'shape' or 'appearance'."
)


def filter_files() -> list[str]:
    from .host.folders import attribute_files

    return [AUTO, *attribute_files(filters=True)]


def class_word_input() -> io.String.Input:
    return io.String.Input("class_word", default="", tooltip=CLASS_WORD)


def filter_inputs() -> list:
    return [
        Features.Input("features", tooltip="From ESCDiff Reference Features."),
        class_word_input(),
        advanced(
            io.Combo.Input(
                "filter", options=filter_files(), default=AUTO, optional=True, tooltip=
                "A pre-trained filter file from models/escdiff; otherwise the filter is trained along with "
                "the token."))
    ]


class _Filter:
    """What both filters share; ``KIND`` makes the difference. No node itself: others list nodes by
    reading."""

    KIND = ""

    @classmethod
    def validate_inputs(cls, filter=AUTO):
        from .host.folders import fault_of, find_attribute

        return filter == AUTO or fault_of(find_attribute, filter)

    @classmethod
    def fingerprint_inputs(cls, features=None, class_word="", filter=AUTO):
        from .host.folders import version_of_attribute

        return version_of_attribute(None if filter == AUTO else filter)

    @classmethod
    def execute(cls, features, class_word="", filter=AUTO):
        from .host.folders import find_attribute
        from .host.learning import TokenStart

        path = "" if filter == AUTO else str(find_attribute(filter))
        return io.NodeOutput(TokenStart(cls.KIND, features, class_word.strip(), path))


class ESCDiffShapeFilter(_Filter, io.ComfyNode):
    KIND = "shape"

    @classmethod
    def define_schema(cls):
        return schema("ESCDiffShapeFilter",
                      "ESCDiff Shape Filter", "Keeps what belongs to the shape and starts a token from it.",
                      filter_inputs(), [ShapeToken.Output("token", tooltip="For ESCDiff Tune.")],
                      group=BLOCKS)


class ESCDiffAppearanceFilter(_Filter, io.ComfyNode):
    KIND = "appearance"

    @classmethod
    def define_schema(cls):
        return schema("ESCDiffAppearanceFilter", "ESCDiff Appearance Filter",
                      "Keeps what belongs to the appearance and starts a token from it.",
                      filter_inputs(), [LookToken.Output("token", tooltip="For ESCDiff Tune.")], group=BLOCKS)


def tuning_inputs(recipes: list[str], default: str) -> list:
    """The inputs of tuning: three in front, the rest for experts. Zero and 'recipe's own' leave a choice to
    the recipe."""
    return [
        io.Combo.Input(
            "recipe", options=recipes, default=default,
            tooltip="How the attribute is learned. -full makes large files, -paper is the published split in "
            "halves, the rest are other methods to compare with."),
        io.Int.Input("steps", default=0, min=0, max=20000, tooltip="0 takes the recipe's own number."),
        seed_input(),
        advanced(
            io.String.Input(
                "describe", default="", tooltip=
                "The rest of the picture in words: 'on a yellow table'. Used by recipes that learn from the "
                "picture as it is; escdiff ones draw and name their own.")),
        advanced(
            io.Combo.Input("preset", options=[AUTO, *PRESETS], default=AUTO, optional=True,
                           tooltip="Which UNet blocks train.")),
        advanced(
            io.Int.Input(
                "batch_size", default=0, min=0, max=256, optional=True,
                tooltip="Draws of noise per step; 0 takes the recipe's own.")),
        advanced(
            io.Int.Input("lora_rank", default=0, min=0, max=256, optional=True,
                         tooltip="For LoRA recipes; 0 takes the recipe's own.")),
        advanced(
            io.Boolean.Input("checkpointing", default=False, optional=True,
                             tooltip="Less memory, more time, the same result.")),
        advanced(
            io.Int.Input(
                "preview_every", default=50, min=0, max=20000, optional=True,
                tooltip="Show what the token draws every so many steps; 0 shows nothing and is quickest.")),
        advanced(
            io.String.Input("token_name", default="", optional=True,
                            tooltip="The placeholder in prompts; empty is *m or *a.")),
    ]


def learned(source, token, recipe, steps, seed, describe="", preset=AUTO, batch_size=0, lora_rank=0,
            checkpointing=False, preview_every=50, token_name=""):
    """Run stage 3 and return (attribute, its losses); the parameters are those of :func:`tuning_inputs`."""
    from ..escdiff_core.learning.recipes import find_recipe
    from .host.learning import learn

    row = find_recipe(recipe, token.kind, steps=steps or None, preset=None if preset == AUTO else preset,
                      batch_size=batch_size or None,
                      rank=(lora_rank or None) if "lora" in find_recipe(recipe).form else None)
    return learn(
        source, token, row, seed, " ".join(describe.split()), token_name.strip(), preview_every, checkpointing
    )


def tune(source, token, recipe, **rest):
    """Run stage 3 and return (attribute, loss plot)."""
    from .pictures import loss_plot

    made, losses = learned(source, token, recipe, **rest)
    title = f"{made.kind} as {made.token}, {made.steps} steps" + ("" if losses else ", found in the cache")
    return made, loss_plot(losses or [made.losses.get("final", 0.0)], title)


def loss_output() -> io.Image.Output:
    return io.Image.Output("loss", tooltip="The loss over the steps.")


class ESCDiffTune(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "ESCDiffTune", "ESCDiff Tune",
            "Learns the attribute: the token and the recipe's blocks of the UNet train on the one "
            "reference, on a private copy. Your model stays as it is. What was learned once is found "
            "again in the cache.", [
                *model_inputs(),
                io.MultiType.Input("token", [ShapeToken, LookToken],
                                   tooltip="From a shape or an appearance filter."),
                *tuning_inputs(list(RECIPES), DEFAULTS["shape"])
            ], [Attribute.Output("attribute", tooltip=LEARNED),
                loss_output()], aliases=["train attribute", "dreambooth", "textual inversion"], group=BLOCKS)

    @classmethod
    def execute(cls, **given):
        from .host.learning import Source

        made, plot = tune(Source(*(given.pop(name) for name in ("model", "clip", "vae"))), **given)
        return io.NodeOutput(made, plot)


def learn_inputs(recipes: list[str], kind: list, word: io.String.Input) -> list:
    """The inputs of learning in one box; ``kind`` is the input that chooses what is learned, or none;
    ``word`` its class word."""
    return [
        *model_inputs(),
        io.Image.Input("image", tooltip="One picture, or up to 16 of the same thing."),
        *kind,
        word,
        *tuning_inputs([AUTO, *recipes], AUTO),
        mask_input(),
        Encoder.Input("encoder", optional=True, tooltip="Optional reference encoder."),
    ]


class _Learn:
    """What the boxes that learn share; ``KIND`` is what they learn, empty where an input says so."""

    KIND = ""

    @classmethod
    def execute(
        cls, model, clip, vae, image, kind="", class_word="", recipe=AUTO, mask=None, encoder=None, **rest
    ):
        from .host.export import usual_recipe
        from .host.learning import Source, TokenStart, read_reference

        kind = cls.KIND or kind
        recipe = usual_recipe(model, kind) if recipe == AUTO else recipe
        source = Source(model, clip, vae)
        features = read_reference(source, image, mask, encoder)
        made, plot = tune(source, TokenStart(kind, features, class_word.strip()), recipe, **rest)
        return io.NodeOutput(made, plot)


class ESCDiffLearnShape(_Learn, io.ComfyNode):
    KIND = "shape"

    @classmethod
    def define_schema(cls):
        return schema(
            "ESCDiffLearnShape", "ESCDiff Learn Shape",
            "Learns the shape of one picture as the word *m. Your model stays as it is. What was "
            "learned once is found again in the cache.",
            learn_inputs(recipes_for("shape"), [], class_word_input()),
            [Shape.Output("shape", tooltip=LEARNED), loss_output()], aliases=[
                "train shape", "learn outline", "silhouette", "reference image", "lora train", "train lora",
                "dreambooth"
            ])


class ESCDiffLearnLook(_Learn, io.ComfyNode):
    KIND = "appearance"

    @classmethod
    def define_schema(cls):
        return schema(
            "ESCDiffLearnLook", "ESCDiff Learn Look",
            "Learns the look of one picture, its colours, pattern and material, as the word *a. Your "
            "model stays as it is. What was learned once is found again in the cache.",
            learn_inputs(recipes_for("appearance"), [], advanced(class_word_input())),
            [Look.Output("look", tooltip=LEARNED), loss_output()], aliases=[
                "learn appearance", "train style", "style transfer", "texture", "material", "reference image",
                "lora train", "train lora"
            ])


class ESCDiffLearnAttribute(_Learn, io.ComfyNode):
    @classmethod
    def define_schema(cls):
        kind = io.Combo.Input(
            "kind", options=list(DEFAULTS), default="shape", tooltip="What to learn from the picture."
        )
        return schema(
            "ESCDiffLearnAttribute", "ESCDiff Learn Attribute",
            "The shape or the appearance of one picture, whichever kind says: ESCDiff Learn Shape and "
            "ESCDiff Learn Look in one node.", learn_inputs(list(RECIPES), [kind], class_word_input()),
            [Attribute.Output("attribute", tooltip=LEARNED),
             loss_output()], aliases=[
                 "learn shape", "learn appearance", "train shape", "train style", "lora train",
                 "style transfer"
             ], group=BLOCKS)


class ESCDiffTrainFilters(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "ESCDiffTrainFilters", "ESCDiff Train Filters",
            "Pre-trains both filters for this model on a folder of pictures, so that a new reference "
            "starts closer.", [
                *model_inputs(),
                io.String.Input("folder", default="",
                                tooltip="A folder of pictures on the server, hundreds are better than tens."),
                io.String.Input("name", default="filters", tooltip="The file in models/escdiff."),
                io.Int.Input("steps", default=1000, min=1, max=100000,
                             tooltip="Of training, for each filter."),
                seed_input(),
                Encoder.Input("encoder", optional=True, tooltip="Optional; the filters then always want it.")
            ], [
                io.String.Output("file",
                                 tooltip="Where the filters are; press R to see them in the filter nodes.")
            ], group=BLOCKS, output_node=True)

    @classmethod
    def fingerprint_inputs(cls, folder="", **_):
        from ..escdiff_core.learning.train_filters import folder_of
        from .host.folders import version_of

        return version_of(folder_of(folder) if folder else None)

    @classmethod
    def validate_inputs(cls, name=None):
        from .host.folders import attribute_path, fault_of

        return fault_of(attribute_path, name)

    @classmethod
    def execute(cls, model, clip, vae, folder, name, steps, seed, encoder=None):
        from .host.learning import train_filters

        path = train_filters(model, clip, vae, folder, name, steps, seed, encoder)
        return io.NodeOutput(path, ui=ui.PreviewText(path))


NODES = [
    ESCDiffLearnShape, ESCDiffLearnLook, ESCDiffLearnAttribute, ESCDiffShapeFilter, ESCDiffAppearanceFilter,
    ESCDiffTune, ESCDiffTrainFilters
]
