"""Stage 1 as nodes: the pocket model, example pictures, the reference encoder, and what the method sees in a
reference."""

from comfy_api.latest import io, ui

from .schema import BLOCKS, POCKET, Encoder, Features, advanced, mask_input, model_inputs, schema, seed_input


def example_names() -> list[str]:
    """The example pictures: held-out shapes and patterns that the pocket model never saw."""
    from ..escdiff_core.worlds.pocket import patterns, shapes

    return [f"shape: {n}" for n in shapes.HELD_OUT] + [f"appearance: {n}" for n in patterns.HELD_OUT]


class ESCDiffLoadPocketModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "ESCDiffLoadPocketModel", "ESCDiff Load Pocket Model",
            "The tiny Stable Diffusion that comes with the pack. It draws one object of a simple "
            "world, 128 pixels wide, in seconds on a CPU: try everything with it before you load a "
            "large model.", [], [
                io.Model.Output(tooltip="For any KSampler."),
                io.Clip.Output(tooltip="For any text node."),
                io.Vae.Output(tooltip="For VAE Decode."),
                Encoder.Output("encoder", tooltip="Its own reference encoder.")
            ], aliases=["escdiff tiny model", "demo model"], group=POCKET)

    @classmethod
    def execute(cls):
        from .host.learning import load_encoder
        from .host.pocket import load_pocket

        return io.NodeOutput(*load_pocket(), load_encoder("pocket"))


class ESCDiffExampleReference(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        names = example_names()
        return schema(
            "ESCDiffExampleReference",
            "ESCDiff Example Reference",
            "A picture to learn from that comes with the pack: a shape or a pattern the pocket model "
            "has never seen.",
            [
                io.Combo.Input(
                    "example", options=names, default=names[0], tooltip="What is new in the picture."
                )
            ],
            [io.Image.Output(tooltip="128 x 128 pixels."), io.Mask.Output(tooltip="1 = the object, exact.")],
            aliases=["sample picture", "demo reference"],
            group=POCKET,
        )

    @classmethod
    def execute(cls, example: str):
        import torch

        from ..escdiff_core.bench.references import appearance_references, shape_references
        from ..escdiff_core.errors import lookup
        from ..escdiff_core.worlds.pocket.world import render
        from .pictures import to_host

        specs = dict(zip(example_names(), [*shape_references(), *appearance_references()], strict=True))
        drawn = render(lookup(specs, example, "example"))
        picture = to_host([drawn.image])
        return io.NodeOutput(
            picture, torch.from_numpy(drawn.mask)[None], ui=ui.PreviewImage(picture, cls=cls)
        )


class ESCDiffLoadReferenceEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        from .host.folders import encoder_files

        return schema(
            "ESCDiffLoadReferenceEncoder", "ESCDiff Load Reference Encoder",
            "OpenCLIP ViT-B/32, which tells the filters what is in the reference. It is optional: "
            "without it the UNet's own features are used alone.", [
                io.Combo.Input(
                    "file", options=encoder_files(), tooltip=
                    "Weights in models/clip_vision (open_clip_model.safetensors of a ViT-B-32 release), or "
                    "the pocket model's own encoder.")
            ], [Encoder.Output("encoder", tooltip="For ESCDiff Reference Features.")],
            aliases=["openclip", "vit-b-32"], group=BLOCKS)

    @classmethod
    def validate_inputs(cls, file=None):
        from .host.folders import POCKET, fault_of, find_encoder

        return file == POCKET or fault_of(find_encoder, file)

    @classmethod
    def execute(cls, file: str):
        from .host.learning import load_encoder

        return io.NodeOutput(load_encoder(file))


class ESCDiffReferenceFeatures(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            "ESCDiffReferenceFeatures", "ESCDiff Reference Features",
            "Looks at the reference with the model and, if there is one, the encoder; the filters "
            "start from what is seen. The preview shows the subject: what is dimmed does not count.", [
                *model_inputs(),
                io.Image.Input("image", tooltip="One picture, or up to 16 of the same thing."),
                Encoder.Input(
                    "encoder", optional=True,
                    tooltip="Optional; a filter that came pre-trained wants the one it was trained with."),
                mask_input(),
                advanced(
                    io.Int.Input("timestep", default=250, min=0, max=999, optional=True,
                                 tooltip="At which noise the UNet looks: 250 shows both shape and texture.")),
                advanced(seed_input())
            ], [
                Features.Output("features", tooltip="For the shape or the appearance filter."),
                io.Image.Output("seen", tooltip="The reference with everything but the subject dimmed.")
            ], aliases=["encode reference"], group=BLOCKS)

    @classmethod
    def execute(cls, model, clip, vae, image, encoder=None, mask=None, timestep=250, seed=0):
        from .host.learning import Source, read_reference
        from .pictures import overlay, to_host

        features = read_reference(Source(model, clip, vae), image, mask, encoder, timestep, seed)
        seen = to_host([overlay(r.image, r.mask) for r in features.references])
        return io.NodeOutput(features, seen, ui=ui.PreviewImage(seen, cls=cls))


NODES = [
    ESCDiffLoadPocketModel, ESCDiffExampleReference, ESCDiffLoadReferenceEncoder, ESCDiffReferenceFeatures
]
