"""A CLIP text encoder's tensors in the two layouts that checkpoints keep them in: transformers' own, and
open_clip's."""

from collections.abc import Mapping

import torch

Tensors = Mapping[str, torch.Tensor]
PROJECTION = "text_projection.weight"
_QKV = ("q_proj", "k_proj", "v_proj")
_LAYER = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
          "self_attn.out_proj": "attn.out_proj"}       # of a layer: transformers' name, open_clip's
_WHOLE = {"embeddings.token_embedding.weight": "token_embedding.weight",
          "embeddings.position_embedding.weight": "positional_embedding",
          "final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias"}


def nested(state: Tensors) -> dict[str, torch.Tensor]:
    """transformers' tensors named ``text_model.…``, which 5.6 dropped and files kept; a projection has no
    such prefix."""
    found = {n.removeprefix("text_model."): t for n, t in state.items() if not n.endswith("position_ids")}
    return {n if n == PROJECTION else f"text_model.{n}": t for n, t in found.items()}


def to_open_clip(state: Tensors) -> dict[str, torch.Tensor]:
    """open_clip's names and shapes for a nested ``state``: query, key and value in one, the projection on its
    other side."""
    made = {theirs: state[f"text_model.{ours}"] for ours, theirs in _WHOLE.items()}
    layer = 0
    while f"text_model.encoder.layers.{layer}.layer_norm1.weight" in state:
        ours, theirs = f"text_model.encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for leaf in ("weight", "bias"):
            made |= {f"{theirs}{o}.{leaf}": state[f"{ours}{n}.{leaf}"] for n, o in _LAYER.items()}
            made[f"{theirs}attn.in_proj_{leaf}"] = torch.cat(
                [state[f"{ours}self_attn.{p}.{leaf}"] for p in _QKV]
            )
        layer += 1
    return made | ({"text_projection": state[PROJECTION].T} if PROJECTION in state else {})


def from_open_clip(state: Tensors) -> dict[str, torch.Tensor]:
    """The reverse of :func:`to_open_clip`. What else stands there, such as a logit scale, is left out."""
    made = {f"text_model.{ours}": state[theirs] for ours, theirs in _WHOLE.items() if theirs in state}
    layer = 0
    while f"transformer.resblocks.{layer}.ln_1.weight" in state:
        ours, theirs = f"text_model.encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for leaf in ("weight", "bias"):
            made |= {f"{ours}{n}.{leaf}": state[f"{theirs}{o}.{leaf}"] for n, o in _LAYER.items()
                     if f"{theirs}{o}.{leaf}" in state}
            if (joint := state.get(f"{theirs}attn.in_proj_{leaf}")) is not None:
                made |= {
                    f"{ours}self_attn.{p}.{leaf}": part for p, part in zip(_QKV, joint.chunk(3), strict=True)
                }
        layer += 1
    return made | (
        {PROJECTION: state["text_projection"].T.contiguous()} if "text_projection" in state else {}
    )
