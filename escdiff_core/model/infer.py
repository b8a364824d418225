"""Read the configuration of a UNet, VAE and CLIP text encoder off the names and shapes of original SD tensors."""

from collections.abc import Mapping
from typing import Any

from ..errors import ESCDiffError

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer."
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
    depth = len(levels[0])
    if depth == 0 or any(len(level) != depth for level in levels):
        raise ESCDiffError(
            f"{source}: the UNet has {[len(level) for level in levels]} residual blocks in its levels; needed: "
            "the same number, at least one, in each (is the file truncated or of another kind?)"
        )
    attends = [f"{UNET_PREFIX}input_blocks.{level[0]}.1.proj_in.weight" in shapes for level in levels]
    middle = "middle_block.1."
    return {
        "in_channels": read("input_blocks.0.0.weight")[1],
        "out_channels": read("out.2.weight")[0],
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        "block_out_channels": [read(f"input_blocks.{level[0]}.0.out_layers.3.weight")[0] for level in levels],
        "layers_per_block": depth,
        "transformer_layers_per_block": _count(shapes, UNET_PREFIX + middle + "transformer_blocks.{}.norm1.weight"),
        "cross_attention_dim": read(middle + "transformer_blocks.0.attn2.to_k.weight")[1],
        "use_linear_projection": len(read(middle + "proj_in.weight")) == 2,
    }


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


def infer_text_encoder(shapes: Shapes, source: str) -> dict[str, Any]:
    """Return the part of a CLIPTextConfig that the shapes decide, and the usual number of heads."""
    nested = any(n.startswith(TEXT_PREFIX + "text_model.") for n in shapes)
    prefix = TEXT_PREFIX + ("text_model." if nested else "")  # some merging tools drop the inner prefix
    read = _reader(shapes, prefix, source, "CLIP text encoder")
    vocabulary, width = read("embeddings.token_embedding.weight")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": read("encoder.layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": _count(shapes, prefix + "encoder.layers.{}.mlp.fc1.weight"),
        "num_attention_heads": max(1, width // CLIP_HEAD_WIDTH),
        "max_position_embeddings": read("embeddings.position_embedding.weight")[0],
    }


def _reader(shapes: Shapes, prefix: str, source: str, part: str):
    def read(name: str) -> tuple[int, ...]:
        shape = shapes.get(prefix + name)
        if shape is None or not 1 < len(shape) < 5:
            raise ESCDiffError(
                f"{source} lacks a usable tensor {prefix}{name} of the {part}; needed: a complete single-file "
                "checkpoint with UNet, VAE and text encoder"
            )
        return tuple(shape)

    return read


def _count(shapes: Shapes, pattern: str) -> int:
    """How many consecutive numbers from 0 fill the ``{}`` of ``pattern``."""
    number = 0
    while pattern.format(number) in shapes:
        number += 1
    return number
