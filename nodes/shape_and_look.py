"""The whole of it in one box: two pictures in, and what the stock KSampler needs out."""

from comfy_api.latest import io, ui

from ..escdiff_core.learning.recipes import recipes_for
from .learn import AUTO, learned
from .mix import prompt_inputs, put_together
from .schema import Encoder, Look, Shape, advanced, model_inputs, schema, seed_input

WORDS = {"shape": "shape", "appearance": "look"}
MASK = "1 = subject (optional). Without one the subject is looked for on a plain background."


class ESCDiffShapeAndLook(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        strength = {"default": 1.0, "min": -4.0, "max": 4.0, "step": 0.05}
        return schema(
            "ESCDiffShapeAndLook", "ESCDiff Shape and Look",
            "Learns the shape of one picture and the look of another, and hands the stock KSampler "
            "all it needs to draw both in one. The first run learns for minutes; after that both are "
            "found in the cache.", [
                *model_inputs(),
                io.Image.Input("shape_picture", tooltip="The picture whose outline you want."),
                io.Image.Input("look_picture",
                               tooltip="The picture whose colours, pattern and material you want."),
                io.String.Input(
                    "class_word", default="", tooltip=
                    "What the subject of the shape picture is, in one word: vase, cat. It may stay empty."),
                *prompt_inputs(),
                seed_input(),
                io.Mask.Input("shape_mask", optional=True, tooltip=MASK),
                io.Mask.Input("look_mask", optional=True, tooltip=MASK),
                Encoder.Input("encoder", optional=True, tooltip="Optional reference encoder."),
                io.Float.Input("shape_strength", **strength, optional=True, tooltip="1 as learned, 0 off."),
                io.Float.Input("look_strength", **strength, optional=True, tooltip="1 as learned, 0 off."),
                advanced(
                    io.Combo.Input("shape_recipe", options=[AUTO, *recipes_for("shape")], default=AUTO,
                                   optional=True, tooltip="How the shape is learned.")),
                advanced(
                    io.Combo.Input("look_recipe", options=[AUTO, *recipes_for("appearance")], default=AUTO,
                                   optional=True, tooltip="How the look is learned.")),
                advanced(
                    io.Int.Input("steps", default=0, min=0, max=20000, optional=True,
                                 tooltip="Of learning each of the two; 0 takes the recipe's own number.")),
                advanced(
                    io.Int.Input(
                        "batch_size", default=0, min=0, max=256, optional=True, tooltip=
                        "Draws of noise per step; 0 takes the recipe's own.")),
                advanced(
                    io.Boolean.Input("checkpointing", default=False, optional=True,
                                     tooltip="Less memory, more time, the same result.")),
                advanced(
                    io.Int.Input(
                        "preview_every", default=50, min=0, max=20000, optional=True,
                        tooltip="Show what is learned every so many steps; 0 shows nothing and is quickest."))
            ], [
                io.Model.Output(tooltip="For the KSampler."),
                io.Conditioning.Output("positive",
                                       tooltip="For the KSampler, with the model from this node."),
                io.Conditioning.Output("negative_out", display_name="negative",
                                       tooltip="For the KSampler, as positive."),
                io.Latent.Output("latent",
                                 tooltip="One empty picture of the model's own size, for the KSampler."),
                io.Image.Output(
                    "learned", tooltip="What was learned, as a picture: the references with all but the "
                    "subject dimmed, and what each token draws on its own."),
                Shape.Output("shape", tooltip="The shape alone, for ESCDiff Save Attribute or ESCDiff Mix."),
                Look.Output("look", tooltip="The look alone, for ESCDiff Save Attribute or ESCDiff Mix.")
            ], aliases=[
                "shape and appearance", "train shape", "train style", "style transfer", "reference image",
                "ipadapter"
            ])

    @classmethod
    def execute(cls, model, clip, vae, shape_picture, look_picture, prompt, negative, seed, class_word="",
                shape_mask=None, look_mask=None, encoder=None, shape_strength=1.0, look_strength=1.0,
                shape_recipe=AUTO, look_recipe=AUTO, **rest):
        from ..escdiff_core.learning.recipes import find_recipe
        from .host.contract import require
        from .host.export import usual_recipe
        from .host.learning import Source, TokenStart, read_reference
        from .host.mixing import conditioning, warn_of_missing_tokens
        from .host.notes import tell
        from .host.seen import empty_latent, learned_picture

        require("sampling")
        source, features, recipes, made = Source(model, clip, vae), {}, {}, {}
        # both are looked at before anything is learned: what is wrong with the look need not wait for the
        # shape
        for kind, image, mask, recipe in (("shape", shape_picture, shape_mask, shape_recipe),
                                          ("appearance", look_picture, look_mask, look_recipe)):
            recipes[kind] = find_recipe(usual_recipe(model, kind) if recipe == AUTO else recipe, kind).name
            features[kind] = read_reference(source, image, mask, encoder)
        for number, kind in enumerate(WORDS, 1):
            tell(f"{number} of 2: the {WORDS[kind]}")
            token = TokenStart(kind, features[kind], class_word.strip() if kind == "shape" else "")
            made[kind], _ = learned(source, token, recipes[kind], seed=seed, **{"steps": 0, **rest})
        mixed = put_together(model, **made, shape_strength=shape_strength, appearance_strength=look_strength)
        warn_of_missing_tokens(mixed, prompt)
        prompts = (conditioning(mixed, clip, text) for text in (prompt, negative))
        picture = learned_picture(mixed, source, features)
        return io.NodeOutput(mixed.model, *prompts, empty_latent(source), picture, made["shape"],
                             made["appearance"], ui=ui.PreviewImage(picture, cls=cls))


NODES = [ESCDiffShapeAndLook]
