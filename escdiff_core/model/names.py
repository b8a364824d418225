"""Canonical tensor names (those of the original Stable Diffusion checkpoints) and diffusers' names, both
ways.

Written down once, as pairs of modules, for every anatomy that the families have: levels with and without
attention, transformers of any depth, a middle that is whole, a lone resnet or missing. The tests hold them
against diffusers' own converters.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import ESCDiffError

Config = Mapping[str, Any]
ANATOMY = ("block_out_channels", "layers_per_block", "down_block_types", "up_block_types", "mid_block_type",
           "addition_embed_type", "transformer_layers_per_block", "reverse_transformer_layers_per_block")
Pair = tuple[str, str]          # diffusers' name, canonical name
_BOTH = (".weight", ".bias")
_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3"
}
_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"
}
_ADDED = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
_TRANSFORMER = ("norm1", "norm2", "norm3", "attn1.to_out.0", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2")
_QKV = tuple(f"{a}.{p}.weight" for a in ("attn1", "attn2") for p in ("to_q", "to_k", "to_v"))


def unet_map(config: Config) -> dict[str, str]:
    """Map every diffusers UNet name to its canonical name, without ``model.diffusion_model.``."""
    return dict(_unet_pairs(config))


def vae_map(config: Config) -> dict[str, str]:
    """Map every AutoencoderKL name to its canonical name, without ``first_stage_model.``."""
    return dict(_vae_pairs(config))


def anatomy(config: Config) -> dict[str, Any]:
    """The part of a UNet's configuration that its names follow from, as JSON data."""
    return {
        key: list(config[key]) if isinstance(config[key], tuple) else config[key]
        for key in ANATOMY
        if key in config
    }


def to_canonical(state: Mapping[str, Any], mapping: Mapping[str, str]) -> dict[str, Any]:
    """Rename a diffusers-named ``state`` (tensors or anything) with a map from above; raise on an unknown
    name."""
    unknown = [n for n in state if n not in mapping]
    if unknown:
        raise ESCDiffError(
            f"{len(unknown)} tensors are not of this Stable Diffusion model (first: {unknown[0]}); "
            "was the file made for another?"
        )
    return {mapping[n]: value for n, value in state.items()}


def to_diffusers(state: Mapping[str, Any], mapping: Mapping[str, str]) -> dict[str, Any]:
    """The reverse of :func:`to_canonical`."""
    return to_canonical(state, {canonical: name for name, canonical in mapping.items()})


def attention_depths(config: Config) -> tuple[list[list[int]], int | None, list[list[int]]]:
    """How many transformer blocks each layer has, level by level: (on the way down, in the middle, on the way
    up).

    0 is a layer without attention. A middle of None is none at all, one of 0 a lone resnet.
    """
    layers, levels = config["layers_per_block"], len(config["block_out_channels"])
    given = config.get("transformer_layers_per_block") or 1
    given = list(given) if isinstance(given, (list, tuple)) else [given] * levels
    back = config.get("reverse_transformer_layers_per_block") or given[::-1]
    kinds = {"down": config["down_block_types"], "up": config["up_block_types"]}

    def level(kind: str, depth: int | list[int], count: int) -> list[int]:
        if not kind.startswith("CrossAttn"):
            return [0] * count
        return list(depth) if isinstance(depth, (list, tuple)) else [depth] * count

    down = [level(k, d, layers) for k, d in zip(kinds["down"], given, strict=True)]
    up = [level(k, d, layers + 1) for k, d in zip(kinds["up"], back, strict=True)]
    middle = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    last = given[-1]
    whole = last[0] if isinstance(last, (list, tuple)) else last
    return down, None if middle is None else whole if middle.endswith("CrossAttn") else 0, up


def _unet_pairs(config: Config) -> Iterator[Pair]:
    widths, layers = list(config["block_out_channels"]), config["layers_per_block"]
    down, middle, up = attention_depths(config)
    ends = _ENDS | (_ADDED if config.get("addition_embed_type") else {})
    yield from _leaves(ends.items())

    block, width, last = 1, widths[0], len(widths) - 1
    for level, (depths, out) in enumerate(zip(down, widths, strict=True)):
        for layer, depth in enumerate(depths):
            yield from _layer(
                f"down_blocks.{level}", layer, f"input_blocks.{block}", depth, skip=width != out
            )
            block, width = block + 1, out
        if level < last:
            yield from _leaves([(f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{block}.0.op")])
            block += 1

    if middle is not None:
        yield from _resnet("mid_block.resnets.0", "middle_block.0", skip=False)
    if middle:
        yield from _transformer("mid_block.attentions.0", "middle_block.1", middle)
        yield from _resnet("mid_block.resnets.1", "middle_block.2", skip=False)

    # one layer more than on the way down: conv_in and the downsamplers leave skips too
    for level, depths in enumerate(up):
        for layer, depth in enumerate(depths):
            yield from _layer(
                f"up_blocks.{level}", layer, f"output_blocks.{level * (layers + 1) + layer}", depth, skip=True
            )
        if level < last:
            place = f"output_blocks.{level * (layers + 1) + layers}.{1 + bool(depths[-1])}"
            yield from _leaves([(f"up_blocks.{level}.upsamplers.0.conv", f"{place}.conv")])


def _layer(level: str, layer: int, block: str, depth: int, skip: bool) -> Iterator[Pair]:
    yield from _resnet(f"{level}.resnets.{layer}", f"{block}.0", skip)
    if depth:
        yield from _transformer(f"{level}.attentions.{layer}", f"{block}.1", depth)


def _resnet(name: str, original: str, skip: bool) -> Iterator[Pair]:
    parts = _RESNET | ({"conv_shortcut": "skip_connection"} if skip else {})
    yield from _leaves((f"{name}.{n}", f"{original}.{o}") for n, o in parts.items())


def _transformer(name: str, original: str, depth: int) -> Iterator[Pair]:
    yield from _leaves((f"{name}.{part}", f"{original}.{part}") for part in ("norm", "proj_in", "proj_out"))
    for inner in (f"transformer_blocks.{i}" for i in range(depth)):
        yield from _leaves((f"{name}.{inner}.{part}", f"{original}.{inner}.{part}") for part in _TRANSFORMER)
        yield from ((f"{name}.{inner}.{part}", f"{original}.{inner}.{part}") for part in _QKV)


def _vae_pairs(config: Config) -> Iterator[Pair]:
    widths, layers = list(config["block_out_channels"]), config["layers_per_block"]
    last, width = len(widths) - 1, widths[0]
    yield from _leaves((n, n) for n in ("quant_conv", "post_quant_conv"))
    for half in ("encoder", "decoder"):
        yield from _leaves([(f"{half}.conv_in", f"{half}.conv_in"),
                            (f"{half}.conv_norm_out", f"{half}.norm_out"),
                            (f"{half}.conv_out", f"{half}.conv_out")])
        parts = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
        yield from _leaves(
            (f"{half}.mid_block.attentions.0.{n}", f"{half}.mid.attn_1.{o}") for n, o in parts.items()
        )
        for number in (0, 1):
            yield from _vae_resnet(
                f"{half}.mid_block.resnets.{number}", f"{half}.mid.block_{number + 1}", skip=False
            )
    for level, out in enumerate(widths):
        for layer in range(layers):
            yield from _vae_resnet(f"encoder.down_blocks.{level}.resnets.{layer}",
                                   f"encoder.down.{level}.block.{layer}", skip=width != out)
            width = out
        if level < last:
            yield from _leaves([(f"encoder.down_blocks.{level}.downsamplers.0.conv",
                                 f"encoder.down.{level}.downsample.conv")])
    for place, level in enumerate(range(last, -1, -1)):
        for layer in range(layers + 1):
            yield from _vae_resnet(f"decoder.up_blocks.{place}.resnets.{layer}",
                                   f"decoder.up.{level}.block.{layer}", skip=width != widths[level])
            width = widths[level]
        if level > 0:
            yield from _leaves(
                [(f"decoder.up_blocks.{place}.upsamplers.0.conv", f"decoder.up.{level}.upsample.conv")]
            )


def _vae_resnet(name: str, original: str, skip: bool) -> Iterator[Pair]:
    parts = {p: p for p in ("norm1", "conv1", "norm2", "conv2")} | (
        {"conv_shortcut": "nin_shortcut"} if skip else {}
    )
    yield from _leaves((f"{name}.{n}", f"{original}.{o}") for n, o in parts.items())


def _leaves(modules: Iterable[Pair]) -> Iterator[Pair]:
    yield from ((name + leaf, original + leaf) for name, original in modules for leaf in _BOTH)
