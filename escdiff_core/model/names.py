"""Canonical tensor names (those of the original Stable Diffusion checkpoints) and diffusers' names, both ways.

The translation is not written down here: tagged scalars are pushed through diffusers' own converters, and where a
tag comes out is the other name of the tensor. What this module knows is only which names a configuration has.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)

from ..errors import ESCDiffError
from .infer import TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX

Config = Mapping[str, Any]
_BOTH = ("weight", "bias")


def unet_map(config: Config) -> dict[str, str]:
    """Map every diffusers UNet name to its canonical name, without ``model.diffusion_model.``."""
    return _trace(ldm_unet_names(config), UNET_PREFIX, lambda tags: convert_ldm_unet_checkpoint(tags, dict(config)))


def vae_map(config: Config) -> dict[str, str]:
    """Map every AutoencoderKL name to its canonical name, without ``first_stage_model.``."""
    return _trace(ldm_vae_names(config), VAE_PREFIX, lambda tags: convert_ldm_vae_checkpoint(tags, dict(config)))


def text_map(config: Config) -> dict[str, str]:
    """Map every CLIPTextModel name (in the nested form, ``text_model.…``) to its canonical name; they are the same."""
    return _trace(clip_text_names(config), TEXT_PREFIX, convert_ldm_clip_checkpoint)


def to_canonical(state: Mapping[str, Any], mapping: Mapping[str, str]) -> dict[str, Any]:
    """Rename a diffusers-named ``state`` (tensors or anything) with a map from above; raise on an unknown name."""
    unknown = [n for n in state if n not in mapping]
    if unknown:
        raise ESCDiffError(
            f"{len(unknown)} tensors are not of this Stable Diffusion 1.x model (first: {unknown[0]}); "
            "was the file made for another?"
        )
    return {mapping[n]: value for n, value in state.items()}


def to_diffusers(state: Mapping[str, Any], mapping: Mapping[str, str]) -> dict[str, Any]:
    """The reverse of :func:`to_canonical`."""
    return to_canonical(state, {canonical: name for name, canonical in mapping.items()})


def ldm_unet_names(config: Config) -> Iterator[str]:
    """Yield the original names of every tensor of the UNet that ``config`` (diffusers form) describes."""
    widths, layers = list(config["block_out_channels"]), config["layers_per_block"]
    depth = config.get("transformer_layers_per_block") or 1
    linear = ("time_embed.0", "time_embed.2", "input_blocks.0.0")
    for module in (*linear, "out.0", "out.2"):
        yield from _leaves(module)

    block, width = 1, widths[0]
    for level, (kind, out) in enumerate(zip(config["down_block_types"], widths, strict=True)):
        for _ in range(layers):
            yield from _unet_resnet(f"input_blocks.{block}.0", skip=width != out)
            if kind.startswith("CrossAttn"):
                yield from _transformer(f"input_blocks.{block}.1", depth)
            block, width = block + 1, out
        if level < len(widths) - 1:
            yield from _leaves(f"input_blocks.{block}.0.op")
            block += 1

    yield from _unet_resnet("middle_block.0", skip=False)
    yield from _transformer("middle_block.1", depth)
    yield from _unet_resnet("middle_block.2", skip=False)

    block = 0
    for level, kind in enumerate(config["up_block_types"]):
        attends = kind.startswith("CrossAttn")
        for layer in range(layers + 1):  # one more than on the way down: conv_in and the downsamplers leave skips too
            yield from _unet_resnet(f"output_blocks.{block}.0", skip=True)
            if attends:
                yield from _transformer(f"output_blocks.{block}.1", depth)
            if layer == layers and level < len(widths) - 1:
                yield from _leaves(f"output_blocks.{block}.{1 + attends}.conv")
            block += 1


def ldm_vae_names(config: Config) -> Iterator[str]:
    """Yield the original names of every tensor of the AutoencoderKL that ``config`` (diffusers form) describes."""
    widths, layers = list(config["block_out_channels"]), config["layers_per_block"]
    last = len(widths) - 1
    for module in ("quant_conv", "post_quant_conv"):
        yield from _leaves(module)
    for half in ("encoder", "decoder"):
        for module in ("conv_in", "norm_out", "conv_out"):
            yield from _leaves(f"{half}.{module}")
        for module in ("norm", "q", "k", "v", "proj_out"):
            yield from _leaves(f"{half}.mid.attn_1.{module}")
        for number in (1, 2):
            yield from _vae_resnet(f"{half}.mid.block_{number}", skip=False)
    width = widths[0]
    for level, out in enumerate(widths):
        for layer in range(layers):
            yield from _vae_resnet(f"encoder.down.{level}.block.{layer}", skip=width != out)
            width = out
        if level < last:
            yield from _leaves(f"encoder.down.{level}.downsample.conv")
    for level in range(last, -1, -1):
        for layer in range(layers + 1):
            yield from _vae_resnet(f"decoder.up.{level}.block.{layer}", skip=width != widths[level])
            width = widths[level]
        if level > 0:
            yield from _leaves(f"decoder.up.{level}.upsample.conv")


def clip_text_names(config: Config) -> Iterator[str]:
    """Yield the names of every tensor of a CLIP text model, as SD checkpoints and transformers < 5.6 say them."""
    yield "text_model.embeddings.token_embedding.weight"
    yield "text_model.embeddings.position_embedding.weight"
    attention = tuple(f"self_attn.{p}_proj" for p in ("q", "k", "v", "out"))
    for layer in range(config["num_hidden_layers"]):
        for module in (*attention, "layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"):
            yield from _leaves(f"text_model.encoder.layers.{layer}.{module}")
    yield from _leaves("text_model.final_layer_norm")


def _leaves(module: str) -> Iterator[str]:
    yield from (f"{module}.{leaf}" for leaf in _BOTH)


def _unet_resnet(block: str, skip: bool) -> Iterator[str]:
    parts = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3")
    for part in (*parts, "skip_connection") if skip else parts:
        yield from _leaves(f"{block}.{part}")


def _vae_resnet(block: str, skip: bool) -> Iterator[str]:
    parts = ("norm1", "conv1", "norm2", "conv2")
    for part in (*parts, "nin_shortcut") if skip else parts:
        yield from _leaves(f"{block}.{part}")


def _transformer(block: str, depth: int) -> Iterator[str]:
    for part in ("norm", "proj_in", "proj_out"):
        yield from _leaves(f"{block}.{part}")
    for inner in (f"{block}.transformer_blocks.{i}" for i in range(depth)):
        for part in ("norm1", "norm2", "norm3", "attn1.to_out.0", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2"):
            yield from _leaves(f"{inner}.{part}")
        for attention in ("attn1", "attn2"):
            yield from (f"{inner}.{attention}.{p}.weight" for p in ("to_q", "to_k", "to_v"))


def _trace(names: Iterator[str], prefix: str, convert: Callable[[dict[str, torch.Tensor]], dict]) -> dict[str, str]:
    """Push one scalar tag per name through ``convert``; return {name that comes out: name that went in}."""
    names = list(names)
    tags = {prefix + n: torch.tensor(i) for i, n in enumerate(names)}
    found = {new: names[int(tag)] for new, tag in convert(tags).items()}
    if len(found) != len(names) or len(set(found.values())) != len(names):
        lost = sorted(set(names) - set(found.values()))
        raise ESCDiffError(f"the installed diffusers does not convert {lost[:3]}; install diffusers 0.33 or newer")
    return found
