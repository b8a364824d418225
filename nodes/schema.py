"""What all nodes share: the pack's own types, and a schema builder that leaves out what an older host does
not know."""

import inspect
from collections.abc import Sequence

from comfy_api.latest import io

CATEGORY = "ESCDiff"
# Groups of nodes in the menu. What most people need stands in front of them, in none.
BLOCKS, POCKET, JUDGE = "building blocks", "pocket model", "judge"

# A wire that can only be a shape, or only a look, has a type of its own, so that the host refuses it in the
# other's place.
Shape = io.Custom("ESCDIFF_SHAPE")
Look = io.Custom("ESCDIFF_APPEARANCE")
# of either kind: what comes from a file, or from a node that learns both
Attribute = io.Custom("ESCDIFF_ATTRIBUTE")
ANY = [Shape, Look, Attribute]
ShapeToken = io.Custom("ESCDIFF_SHAPE_TOKEN")
LookToken = io.Custom("ESCDIFF_APPEARANCE_TOKEN")
Features = io.Custom("ESCDIFF_FEATURES")
Encoder = io.Custom("ESCDIFF_ENCODER")


def schema(node_id: str, title: str, description: str, inputs: Sequence, outputs: Sequence, *,
           aliases: Sequence[str] = (), group: str = "", output_node: bool = False) -> io.Schema:
    """Build a node's schema; search aliases go only to hosts that have them.

    Every output shows its id, or its type if it has none: ComfyUI 0.3.64 shows ``ESCDIFF_SHAPE`` for
    ``shape`` by itself.
    """
    for output in outputs:
        output.display_name = output.display_name or output.id or output.get_io_type()
    newer = {"search_aliases": list(aliases)} if "search_aliases" in inspect.signature(
        io.Schema).parameters else {}
    return io.Schema(node_id=node_id, display_name=title, description=description, inputs=list(inputs),
                     outputs=list(outputs), category=f"{CATEGORY}/{group}" if group else CATEGORY,
                     is_output_node=output_node, **newer)


def advanced(made):
    """Mark an input as one for experts: hosts that fold such inputs away do, others show it like any
    other."""
    made.extra_dict = {**(made.extra_dict or {}), "advanced": True}
    return made


def model_inputs(vae: bool = True) -> list:
    """MODEL, CLIP and, for those who look at pictures, VAE."""
    inputs = [
        io.Model.Input(
            "model",
            tooltip="A model of Stable Diffusion 1.x, 2.x or SDXL, LoRAs included; it stays as it is.",
        ),
        io.Clip.Input("clip", tooltip="The text encoder that came with the model."),
    ]
    return [*inputs, io.Vae.Input("vae", tooltip="The VAE that came with the model.")] if vae else inputs


def seed_input(
    tooltip: str = "The same seed learns the same attribute.", changes: bool = False
) -> io.Int.Input:
    """A seed; only with ``changes`` does the front end offer to draw a new one after each run, which would
    learn anew."""
    return io.Int.Input(
        "seed", default=0, min=0, max=2**64 - 1, tooltip=tooltip, control_after_generate=changes
    )


def mask_input() -> io.Mask.Input:
    return io.Mask.Input(
        "mask",
        optional=True,
        tooltip="1 = subject. Without one, or with an empty one, the subject is looked for on a plain "
        "background. LoadImage's mask is 1 where a cut-out is transparent: put InvertMask between.",
    )
