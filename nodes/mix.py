"""Stage 5 as nodes: attributes onto the loaded model, prompts with tokens, and everything in one box."""

from comfy_api.latest import io

from ..escdiff_core.choices import MIDDLES, OVERLAPS
from .schema import BLOCKS, Attribute, Look, Shape, advanced, model_inputs, schema, seed_input

Mixed = io.Custom("ESCDIFF_MIXED")
PROMPT = "a photo of a *m with *a appearance on a white background"


def attribute_inputs() -> list:
    strength = {"default": 1.0, "min": -4.0, "max": 4.0, "step": 0.05}
    begin = {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.01}
    end = {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}
    return [
        io.MultiType.Input("shape", [Shape, Attribute], optional=True,
                           tooltip="A shape; its token is *m unless named otherwise."),
        io.MultiType.Input("appearance", [Look, Attribute], optional=True,
                           tooltip="A look; its token is *a unless named otherwise."),
        io.Float.Input("shape_strength", **strength, optional=True, tooltip="1 as learned, 0 off."),
        io.Float.Input("appearance_strength", **strength, optional=True, tooltip="1 as learned, 0 off."),
        advanced(
            io.Combo.Input("middle", options=list(MIDDLES), default="shape", optional=True,
                           tooltip="Which attribute owns the middle block of the UNet.")),
        advanced(
            io.Float.Input("shape_start", **begin, optional=True,
                           tooltip="When the shape begins to act: 0 first step.")),
        advanced(
            io.Float.Input("shape_end", **end, optional=True,
                           tooltip="When the shape stops acting: 1 last step.")),
        advanced(
            io.Float.Input("appearance_start", **begin, optional=True,
                           tooltip="When the appearance begins to act.")),
        advanced(
            io.Float.Input("appearance_end", **end, optional=True,
                           tooltip="When the appearance stops acting.")),
        advanced(
            io.Combo.Input(
                "overlap", options=list(OVERLAPS), default="divide", optional=True, tooltip=
                "Where both changed the same weights: divide them between the two, or add both changes.")),
    ]


def prompt_inputs() -> list:
    return [
        io.String.Input(
            "prompt", default=PROMPT, multiline=True, dynamic_prompts=True,
            tooltip="*m stands for the shape, *a for the appearance; weights such as (*m:1.2) work."),
        io.String.Input("negative", default="", multiline=True, dynamic_prompts=True,
                        tooltip="What should not be there.")
    ]


def put_together(model, shape=None, appearance=None, shape_strength=1.0, appearance_strength=1.0,
                 middle="shape", shape_start=0.0, shape_end=1.0, appearance_start=0.0, appearance_end=1.0,
                 overlap="divide"):
    """The model with the attributes on it; parameters are those of :func:`attribute_inputs`."""
    from ..escdiff_core.mixing.plan import Use
    from .host.mixing import mix

    uses = [None if attribute is None else Use(attribute, *how) for attribute, *how in (
        (shape, shape_strength, shape_start, shape_end),
        (appearance, appearance_strength, appearance_start, appearance_end))]
    return mix(model, *uses, middle, overlap)


class ESCDiffMix(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "ESCDiffMix", "ESCDiff Mix",
            "The shape of one picture with the appearance of another, in any prompt, for the stock "
            "KSampler. Costs no more than plain sampling; LoRAs may come before or after it, "
            "ControlNet after.", [*model_inputs(vae=False), *prompt_inputs(), *attribute_inputs()], [
                io.Model.Output(tooltip="For the KSampler."),
                io.Conditioning.Output("positive",
                                       tooltip="For the KSampler, with the model from this node."),
                io.Conditioning.Output("negative_out", display_name="negative",
                                       tooltip="For the KSampler, as positive."),
                io.Clip.Output(
                    "clip_out", display_name="clip",
                    tooltip="Knows *m and *a in every text node; its prompts go to all blocks alike.")
            ], aliases=[
                "apply attribute", "apply shape", "apply style", "shape and appearance", "style transfer"
            ])

    @classmethod
    def execute(cls, model, clip, prompt, negative, **attributes):
        from .host.mixing import clip_of, conditioning, warn_of_missing_tokens

        mixed = put_together(model, **attributes)
        warn_of_missing_tokens(mixed, prompt)
        prompts = (conditioning(mixed, clip, text) for text in (prompt, negative))
        return io.NodeOutput(mixed.model, *prompts, clip_of(mixed, clip))


class ESCDiffApply(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "ESCDiffApply", "ESCDiff Apply",
            "Puts attributes onto the model; ESCDiff Prompt makes the prompts for it. For those who "
            "wire it themselves.", [model_inputs(vae=False)[0], *attribute_inputs()], [
                io.Model.Output(tooltip="For the KSampler."),
                Mixed.Output("mixed", tooltip="For ESCDiff Prompt.")
            ], group=BLOCKS)

    @classmethod
    def execute(cls, model, **attributes):
        mixed = put_together(model, **attributes)
        return io.NodeOutput(mixed.model, mixed)


class ESCDiffPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "ESCDiffPrompt", "ESCDiff Prompt",
            "A prompt for a model from ESCDiff Apply; positive and negative both come from here.", [
                Mixed.Input("mixed", tooltip="From ESCDiff Apply."),
                model_inputs(vae=False)[1],
                io.String.Input(
                    "prompt", default="", multiline=True, dynamic_prompts=True,
                    tooltip="*m stands for the shape, *a for the appearance; weights such as (*m:1.2) work.")
            ], [
                io.Conditioning.Output("conditioning",
                                       tooltip="For the KSampler, with the model from ESCDiff Apply.")
            ], group=BLOCKS)

    @classmethod
    def execute(cls, mixed, clip, prompt):
        from .host.mixing import conditioning, tell_of_no_token

        tell_of_no_token(mixed, prompt)
        return io.NodeOutput(conditioning(mixed, clip, prompt))


class ESCDiffClear(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "ESCDiffClear", "ESCDiff Clear",
            "Takes the attributes' prompts out of a conditioning: what is left is the main prompt, "
            "which any model can read.",
            [io.Conditioning.Input("conditioning", tooltip="From ESCDiff Mix or Prompt.")],
            [io.Conditioning.Output("cleared", tooltip="A plain conditioning.")], group=BLOCKS)

    @classmethod
    def execute(cls, conditioning):
        from .host.mixing import cleared

        return io.NodeOutput(cleared(conditioning))


class ESCDiffMixedSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        from .host.sampling import samplers, schedulers

        return schema(
            "ESCDiffMixedSampler", "ESCDiff Mixed Sampler",
            "From attributes and prompt to a latent in one box.", [
                *model_inputs(vae=False), *prompt_inputs(),
                io.Latent.Input("latent", tooltip="An empty latent of the size you want."),
                seed_input("Of the noise.", changes=True),
                io.Int.Input("steps", default=30, min=1, max=1000, tooltip="Of sampling."),
                io.Float.Input("cfg", default=6.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance scale."),
                io.Combo.Input("sampler", options=samplers(), default="dpmpp_2m",
                               tooltip="As in the KSampler."),
                io.Combo.Input("scheduler", options=schedulers(), default="normal",
                               tooltip="As in the KSampler."),
                io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01,
                               tooltip="As in the KSampler."), *attribute_inputs()
            ], [io.Latent.Output("samples", tooltip="For VAE Decode.")], group=BLOCKS)

    @classmethod
    def execute(cls, model, clip, prompt, negative, latent, seed, steps, cfg, sampler, scheduler, denoise,
                **attributes):
        from .host.contract import require
        from .host.mixing import conditioning, warn_of_missing_tokens
        from .host.sampling import sample

        require("sampling")
        mixed = put_together(model, **attributes)
        warn_of_missing_tokens(mixed, prompt)
        return io.NodeOutput(
            sample(mixed.model, seed, steps, cfg, sampler, scheduler, conditioning(mixed, clip, prompt),
                   conditioning(mixed, clip, negative), latent, denoise))


NODES = [ESCDiffMix, ESCDiffApply, ESCDiffPrompt, ESCDiffClear, ESCDiffMixedSampler]
