"""What a family is: the facts that tell one architecture from another. A new one is a module with a
``FAMILY`` beside this."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

Read = Callable[[str], dict[str, torch.Tensor]]        # the tensors of a checkpoint whose name begins so
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class TowerRow:
    """A text tower of a family. ``name``: as attribute files call it. ``prefix`` and ``layout``: where and
    how a single file keeps it (see model.clip_names), ``also``: where some files have it instead.
    ``config``: of transformers' class. ``folder``, ``words``: of a diffusers folder.

    ``reads``: the hidden state that the UNet reads, from the end, -1 the last. ``normed``: behind the final
    norm. ``pooled``: its projection is the pooled vector. ``padding``: the word that fills a prompt up; None:
    the end word.
    """

    name: str
    prefix: str
    layout: str
    config: Mapping[str, Any]
    folder: str = "text_encoder"
    words: str = "tokenizer"
    reads: int = -1
    normed: bool = True
    pooled: bool = False
    padding: str | None = None
    also: tuple[str, ...] = ()

    def prefix_in(self, names: Iterable[str]) -> str:
        """Where a single file with tensors of these ``names`` keeps the tower."""
        names = list(names)
        there = (p for p in (self.prefix, *self.also) if any(name.startswith(p) for name in names))
        return next(there, self.prefix)

    def layers(self, config: Mapping[str, Any]) -> int:
        """How many layers of an encoder of ``config`` have to be computed: those behind the one that is read
        do nothing."""
        whole = config["num_hidden_layers"]
        return whole + self.reads + 1 if self.normed and not self.pooled else whole

    @property
    def hidden_state(self) -> int | None:
        """Which hidden state is read of an encoder of so many layers; None: what the final norm gives."""
        return None if self.normed and not self.pooled else self.reads


@dataclass(frozen=True)
class Family:
    """One architecture. ``context``: width of the text states that its UNet reads, by which a checkpoint is
    recognised.

    ``unet`` and ``vae``: configurations of diffusers' classes at full size; files with fewer levels or
    channels fit as well. ``noise(shapes, read)``: what a checkpoint's own tensors say of its noise schedule
    and size, as ModelConfig has them. ``recipes``: what each kind is learned with where nobody asks for
    another.
    """

    name: str
    title: str
    context: int
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    towers: tuple[TowerRow, ...]
    scheduler: Mapping[str, Any]
    native_size: int
    recipes: Mapping[str, str]
    noise: Callable[[Shapes, Read], Mapping[str, Any]] = lambda shapes, read: {}
    refused: Callable[[Mapping[str, Any]], str] = field(default=lambda unet: "")

    @property
    def tower_names(self) -> tuple[str, ...]:
        return tuple(tower.name for tower in self.towers)


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build a model without asking a hub.

    ``unet``, ``vae``, ``text_encoders`` (by the tower's name) are configurations of the diffusers and
    transformers classes; ``reads`` says which layer of each tower is read where that is not the family's own
    (CLIP skip); ``tokenizer`` is None for SD's own vocabulary, else ``{"vocab": {token: id}, "merges": ["a
    b", ...]}``; ``native_size`` is the side in pixels that the model was trained at.
    """

    family: str
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoders: Mapping[str, Mapping[str, Any]]
    scheduler: Mapping[str, Any]
    native_size: int
    tokenizer: Mapping[str, Any] | None = None
    reads: Mapping[str, int] = field(default_factory=dict)


def widths_of(unet: Mapping[str, Any], head: int = 64) -> list[int]:
    """The number of heads of each level, for a UNet whose heads are ``head`` wide."""
    return [max(1, width // head) for width in unet["block_out_channels"]]


def names_of(families: Sequence[Family]) -> str:
    """The families for a sentence."""
    titles = [family.title for family in families]
    return ", ".join(titles[:-1]) + (" or " if len(titles) > 1 else "") + titles[-1]
