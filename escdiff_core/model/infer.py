"""Read the configuration of a UNet, VAE and CLIP text encoder off the names and shapes of original SD
tensors."""

from collections.abc import Mapping
from typing import Any

from ..errors import ESCDiffError

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
CLIP_HEAD_WIDTH = 64  # every published CLIP text tower has heads of this width; shapes alone do not tell

Shapes = Mapping[str, tuple[int, ...]]


def infer_unet(shapes: Shapes, source: str) -> dict[str, Any]:
    """Return the part of a UNet2DConditionModel configuration that the shapes decide.

    The number of heads is not among it. Raises ESCDiffError when the levels are not regular.
    """
    read = _reader(shapes, UNET_PREFIX, source, "UNet")
    levels: list[list[int]] = [[]]  # input block numbers of the residual blocks of each level
    block = 1
    while True:
        if f"{UNET_PREFIX}input_blocks.{block}.0.op.weight" in shapes:
            levels.append([])
        elif f"{UNET_PREFIX}input_blocks.{block}.0.in_layers.2.weight" in shapes:
            levels[-1].append(block)
        else:
            break
        block += 1
    layers = len(levels[0])
    if layers == 0 or any(len(level) != layers for level in levels):
        raise ESCDiffError(
            f"{source}: the UNet has {[len(level) for level in levels]} residual blocks in its levels; "
            "needed: the same number, at least one, in each (is the file truncated or of another "
            "kind?)"
        )
    down = [[_depth(shapes, f"input_blocks.{block}") for block in level] for level in levels]
    up = [[_depth(shapes, f"output_blocks.{(layers + 1) * level + layer}") for layer in range(layers + 1)]
          for level in range(len(levels))]
    attends = [bool(level[0]) for level in down]
    name = next((n for n in shapes if n.startswith(UNET_PREFIX) and n.endswith(".attn2.to_k.weight")), "")
    linear = name.removeprefix(UNET_PREFIX).partition("transformer_blocks")[0] + "proj_in.weight"
    return {
        "in_channels": read("input_blocks.0.0.weight")[1], "out_channels": read("out.2.weight")[0],
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        "block_out_channels": [read(f"input_blocks.{level[0]}.0.out_layers.3.weight")[0] for level in levels],
        "layers_per_block": layers, **_attention(down, up, shapes), "cross_attention_dim": read(
            name.removeprefix(UNET_PREFIX) or "middle_block.1.transformer_blocks.0.attn2.to_k.weight")[1],
        "use_linear_projection": len(read(linear)) == 2, **_added(shapes),
    }


def _attention(down: list[list[int]], up: list[list[int]], shapes: Shapes) -> dict[str, Any]:
    """How deep the transformers are: as one number or one for each level where that says it all."""
    middle = _depth(shapes, "middle_block")
    made: dict[str, Any] = {}
    if not middle:
        made["mid_block_type"] = (
            "UNetMidBlock2D" if f"{UNET_PREFIX}middle_block.0.in_layers.2.weight" in shapes else None
        )
    each = [set(a) | set(b) for a, b in zip(down, reversed(up), strict=True)]
    regular = all(len(depths) == 1
                  for depths in each) and middle in (0, *each[-1], *({1} if each[-1] == {0} else ()))
    if not regular:
        return {**made, "transformer_layers_per_block": [list(level) for level in down],
                "reverse_transformer_layers_per_block": [list(level) for level in up]}
    depths = [max(*depths, 1) for depths in each]       # diffusers' word for a level without attention is 1
    return {**made, "transformer_layers_per_block": depths[0] if len(set(depths)) == 1 else depths}


def _depth(shapes: Shapes, block: str) -> int:
    return _count(shapes, f"{UNET_PREFIX}{block}.1.transformer_blocks.{{}}.norm1.weight")


def _added(shapes: Shapes) -> dict[str, Any]:
    """What a UNet takes beside text states: the pooled vector and six numbers, 256 features each (Podell et
    al. 2023)."""
    width = shapes.get(f"{UNET_PREFIX}label_emb.0.0.weight")
    return {} if width is None else {"addition_embed_type": "text_time", "addition_time_embed_dim": 256,
                                     "projection_class_embeddings_input_dim": width[1]}


def infer_vae(shapes: Shapes, source: str) -> dict[str, Any]:
    """Return the part of an AutoencoderKL configuration that the shapes decide (all but the latent scale)."""
    read = _reader(shapes, VAE_PREFIX, source, "VAE")
    levels = _count(shapes, VAE_PREFIX + "encoder.down.{}.block.0.conv1.weight")
    return {
        "in_channels": read("encoder.conv_in.weight")[1],
        "out_channels": read("decoder.conv_out.weight")[0],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": [read(f"encoder.down.{i}.block.0.conv1.weight")[0] for i in range(levels)],
        "layers_per_block": _count(shapes, VAE_PREFIX + "encoder.down.0.block.{}.conv1.weight"),
        "latent_channels": read("post_quant_conv.weight")[0],
    }


def infer_text_encoder(shapes: Shapes, prefix: str, layout: str, source: str) -> dict[str, Any]:
    """Return the part of a CLIPTextConfig that the shapes under ``prefix`` decide, and the usual number of
    heads.

    ``layout``: transformers or open_clip (see clip_names).
    """
    if layout == "open_clip":
        table, places, layer = (
            "token_embedding.weight",
            "positional_embedding",
            "transformer.resblocks.{}.mlp.c_fc.weight",
        )
    else:
        # some merging tools drop the inner prefix
        prefix += "text_model." if any(n.startswith(f"{prefix}text_model.") for n in shapes) else ""
        table, places = "embeddings.token_embedding.weight", "embeddings.position_embedding.weight"
        layer = "encoder.layers.{}.mlp.fc1.weight"
    read = _reader(shapes, prefix, source, "CLIP text encoder")
    vocabulary, width = read(table)
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": read(layer.format(0))[0],
        "num_hidden_layers": _count(shapes, prefix + layer),
        "num_attention_heads": max(1, width // CLIP_HEAD_WIDTH),
        "max_position_embeddings": read(places)[0],
    }


def _reader(shapes: Shapes, prefix: str, source: str, part: str):
    def read(name: str) -> tuple[int, ...]:
        shape = shapes.get(prefix + name)
        if shape is None or not 1 < len(shape) < 5:
            raise ESCDiffError(
                f"{source} lacks a usable tensor {prefix}{name} of the {part}; needed: a complete "
                "single-file checkpoint with UNet, VAE and text encoder"
            )
        return tuple(shape)

    return read


def _count(shapes: Shapes, pattern: str) -> int:
    """How many consecutive numbers from 0 fill the ``{}`` of ``pattern``."""
    number = 0
    while pattern.format(number) in shapes:
        number += 1
    return number
