"""What all nodes share: the pack's own types, and a schema builder that leaves out what an older host does not know."""

import inspect
from collections.abc import Sequence

from comfy_api.latest import io

CATEGORY = "ESCDiff"
Attribute = io.Custom("ESCDIFF_ATTRIBUTE")
Features = io.Custom("ESCDIFF_FEATURES")
Token = io.Custom("ESCDIFF_TOKEN")
Encoder = io.Custom("ESCDIFF_ENCODER")


def schema(node_id: str, title: str, description: str, inputs: Sequence, outputs: Sequence, *,
           aliases: Sequence[str] = (), group: str = "", output_node: bool = False) -> io.Schema:
    """Build a node's schema; search aliases go only to hosts that have them."""
    newer = {"search_aliases": list(aliases)} if "search_aliases" in inspect.signature(io.Schema).parameters else {}
    return io.Schema(node_id=node_id, display_name=title, description=description, inputs=list(inputs), outputs=list(outputs),
                     category=f"{CATEGORY}/{group}" if group else CATEGORY, is_output_node=output_node, **newer)


def advanced(made):
    """Mark an input as one for experts: hosts that fold such inputs away do, others show it like any other."""
    made.extra_dict = {**(made.extra_dict or {}), "advanced": True}
    return made


def model_inputs(vae: bool = True) -> list:
    """MODEL, CLIP and, for those who look at pictures, VAE."""
    inputs = [io.Model.Input("model", tooltip="A Stable Diffusion 1.x model, LoRAs included; it stays as it is."),
              io.Clip.Input("clip", tooltip="The text encoder that came with the model.")]
    return [*inputs, io.Vae.Input("vae", tooltip="The VAE that came with the model.")] if vae else inputs


def seed_input(tooltip: str = "The same seed learns the same attribute.", changes: bool = False) -> io.Int.Input:
    """A seed; only with ``changes`` does the front end offer to draw a new one after each run, which would learn anew."""
    return io.Int.Input("seed", default=0, min=0, max=2**64 - 1, tooltip=tooltip, control_after_generate=changes)


def mask_input() -> io.Mask.Input:
    return io.Mask.Input("mask", optional=True, tooltip="1 = subject. Without one, or with an empty one, the subject is looked for "
                                                        "on a plain background. LoadImage's mask is 1 where a cut-out is "
                                                        "transparent: put InvertMask between.")
