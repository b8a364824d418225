"""The prompts of one picture as one tensor: what a node does to a CONDITIONING, it does to all of them alike.

Blocks of the UNet, and parts of the schedule, may each read a prompt of their own. These lie side by side in
the last dimension, (1, tokens, prompts * dim). So a weighted average, a multiplication, zeros or a longer
text act on every one of them, in stock nodes and in those of other packs. ``nodes.host.routing`` takes the
tensor apart again before the UNet is called.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .notes import ESCDiff

MARK = "escdiff_layout"      # entry of a conditioning: the Layout of its states
MAIN = "escdiff_main_only"   # entry of a conditioning that ESCDiff Clear has made of one with several parts
WORDS = ("add", "sub", "lerp", "where", "__add__", "__radd__", "__sub__", "__rsub__")
MEETING = {torch.cat, torch.concat, torch.add, torch.sub, torch.lerp, torch.where,
           *(getattr(torch.Tensor, word) for word in WORDS)}


@dataclass(frozen=True)
class Layout:
    """What lies where: ``width`` is that of one prompt, ``parts`` are (end of the part, 0 to 1; columns of
    its slots).

    ``places`` says which slot each block reads, part by part: layouts are equal where prompts can be
    exchanged.
    """

    width: int
    parts: tuple[tuple[float, tuple[int, ...]], ...]
    places: tuple[tuple[tuple[str, int], ...], ...]

    @property
    def columns(self) -> int:
        return 1 + max(column for _, columns in self.parts for column in columns)

    def column(self, states: torch.Tensor, number: int) -> torch.Tensor:
        """One prompt of ``states``, as a plain tensor (b, n, width)."""
        return plain(states)[..., number * self.width:(number + 1) * self.width]


class States(torch.Tensor):
    """Text states of several prompts. A plain prompt that meets them is the same text for each of them.

    Raises ESCDiffError where they meet those of another number of prompts, or a layer that reads just one.
    """

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in MEETING:
            args, kwargs = _widened((args, kwargs))
        if func is torch.nn.functional.linear and args[0].shape[-1] != args[1].shape[-1]:
            raise ESCDiff(
                "this CONDITIONING holds several prompts for a MODEL of ESCDiff, and the MODEL is "
                "another; connect that of the same ESCDiff Mix or Apply, or put ESCDiff Clear behind "
                "the prompt"
            )
        return super().__torch_function__(func, types, args, kwargs)


def pack(prompts: Sequence[torch.Tensor]) -> States:
    """Lay text states (1, n, dim) side by side, the shorter ones repeated up to one length.

    Attention cannot tell a text from its repetition.
    """
    length = math.lcm(*(p.shape[1] for p in prompts))
    return torch.cat([p.repeat(1, length // p.shape[1], 1) for p in prompts], dim=-1).as_subclass(States)


def plain(states: torch.Tensor) -> torch.Tensor:
    """The same numbers as an ordinary tensor."""
    with torch._C.DisableTorchFunctionSubclass():
        return states.as_subclass(torch.Tensor)


def _widened(given):
    """``given`` arguments with every plain prompt repeated once for each of the prompts that it meets."""
    widths = {t.shape[-1] for t in _tensors(given) if isinstance(t, States) and t.ndim == 3}
    if len(widths) > 1:
        raise ESCDiff(
            "prompts of two ESCDiff nodes with different attributes or schedules were joined, and "
            "they do not fit; make both with one ESCDiff Apply and ESCDiff Prompt"
        )

    def widen(value):
        if isinstance(value, (list, tuple)):
            return type(value)(map(widen, value))
        if isinstance(value, dict):
            return {name: widen(v) for name, v in value.items()}
        width = max(widths, default=0)
        if not isinstance(value, torch.Tensor) or value.ndim != 3 or isinstance(value, States):
            return value
        own = value.shape[-1]
        return value.repeat(1, 1, width // own) if 1 < own < width and width % own == 0 else value

    return widen(given)


def _tensors(given):
    if isinstance(given, torch.Tensor):
        yield given
    elif isinstance(given, (list, tuple, dict)):
        for value in given.values() if isinstance(given, dict) else given:
            yield from _tensors(value)
