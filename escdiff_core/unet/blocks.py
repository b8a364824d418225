"""Which UNet tensor belongs to which block, and the named presets that say which blocks an attribute trains.

A block is the smallest part that a preset hands out: one resnet with its attention (``down_blocks.1.0``), a
resampler (``up_blocks.1.resample``), the middle, the input and output convolutions, the time embedding. Names
are diffusers'.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..errors import ESCDiffError, lookup

KINDS = ("shape", "appearance")
# Which tensors of its blocks a recipe trains: all, those of attention, keys and values of cross-attention, or
# the token alone
SCOPES: Mapping[str, tuple[str, ...]] = {
    "all": ("*",), "attention": ("*.attn[12].to_*",), "cross-kv": ("*.attn2.to_[kv].*",), "token": (),
}
_LAYER = re.compile(r"((?:down|up)_blocks\.\d+)\.(?:resnets|attentions)\.(\d+)\.")
_RESAMPLER = re.compile(r"((?:down|up)_blocks\.\d+)\.(?:down|up)samplers\.")
_LEVEL = re.compile(r"(down|up)_blocks\.(\d+)\.(\w+)")
_WHOLE = {
    "mid_block": "mid_block", "conv_in": "conv_in", "time_embedding": "time_embedding",
    "add_embedding": "add_embedding", "conv_norm_out": "conv_out", "conv_out": "conv_out"
}


def block_of(name: str) -> str:
    """The block of a tensor or module with diffusers' ``name``. Raises ESCDiffError for a name that no SD
    UNet has."""
    if found := _LAYER.match(name):
        return f"{found[1]}.{found[2]}"
    if found := _RESAMPLER.match(name):
        return f"{found[1]}.resample"
    first = name.split(".", 1)[0]
    return lookup(_WHOLE, first, "UNet part")


def place_of(block: str, levels: int) -> str:
    """Where a block lies in a UNet of ``levels``, whichever family's: ``down/4.0`` and ``up/4.0`` are first
    layers at a quarter of the latent's sides, ``up/2.resample`` leads from half to whole; the other blocks go
    by their names.
    """
    found = _LEVEL.fullmatch(block)
    if not found:
        return block
    half, level, layer = found[1], int(found[2]), found[3]
    return f"{half}/{2 ** (level if half == 'down' else levels - 1 - level)}.{layer}"


@dataclass(frozen=True)
class Preset:
    """Glob patterns over places (see place_of): what each kind trains. A kind with none cannot be learned
    with the preset."""

    name: str
    shape: tuple[str, ...]
    appearance: tuple[str, ...]
    why: str

    def patterns(self, kind: str) -> tuple[str, ...]:
        """The patterns of ``kind``; ``concept`` is the union of both."""
        return self.shape + self.appearance if kind == "concept" else getattr(self, kind)

    def blocks(self, kind: str, tensor_names: Iterable[str]) -> tuple[str, ...]:
        """The blocks of ``kind`` among ``tensor_names`` (diffusers'), sorted. Raises ESCDiffError if there
        are none."""
        blocks = set(map(block_of, tensor_names))
        levels = 1 + max((int(b.split(".")[1]) for b in blocks if b.startswith("down_blocks.")), default=0)
        found = {b for b in blocks if any(fnmatchcase(place_of(b, levels), p) for p in self.patterns(kind))}
        if not found:
            able = [p.name for p in PRESETS.values() if p.patterns(kind)]
            raise ESCDiffError(
                f"preset {self.name!r} trains nothing for {kind}; presets that do: {', '.join(able)}"
            )
        return tuple(sorted(found))


_FINE = ("up/[12].*", "conv_out")
# the last layer at a quarter, and the way from there to half
_FEEDS_FINE = ("up/4.2", "up/4.resample")
_COARSE = ("down/[48].*", "mid_block", "up/8.*", "up/4.[01]")

PRESETS: Mapping[str, Preset] = {
    p.name: p
    for p in
    (Preset("paper", ("conv_in", "down/*"), ("up/*", "conv_out"), "encoder = shape, decoder = appearance"),
     Preset("paper+middle", ("conv_in", "down/*",
                             "mid_block"), ("up/*", "conv_out"), "the middle goes with the encoder"),
     Preset(
         "resolution", _COARSE, ("conv_in", "down/[12].*", *_FEEDS_FINE, *_FINE),
         "latents at a quarter of the input or below for shape, finer layers of both paths for appearance"),
     Preset("fine-decoder", (), _FINE, "only the two finest decoder levels"),
     Preset("fine-decoder+", (), (*_FEEDS_FINE,
                                  *_FINE), "the two finest decoder levels and the layer that feeds them"),
     Preset(
         "coarse-fine", ("conv_in", "down/*", "mid_block", "up/8.*", "up/4.[01]"), (*_FEEDS_FINE, *_FINE),
         "encoder, middle and coarse decoder for shape, fine decoder for appearance: disjoint, and nothing "
         "left out"),
     Preset(
         "b-lora", ("up/4.0",), ("up/4.1",),
         "one layer each at a quarter of the input, the two blocks of B-LoRA in SDXL (Frenkel et al. 2024)"),
     Preset("whole", ("*",), ("*",), "everything: a shape's default, a control for an appearance"),
     )
}


def find_preset(name: str) -> Preset:
    """The preset called ``name``. Raises ESCDiffError that lists the known ones."""
    return lookup(PRESETS, name, "preset")
