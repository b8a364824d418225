"""Which prompt each cross-attention layer sees: derived from the blocks of the attributes in use, one UNet
evaluation.

The prompts of one picture travel packed along the sequence axis, (b, slots * 77, dim); an attention processor
cuts out the slot that its layer is routed to. Slot 0 is the main prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffusers import UNet2DConditionModel

from ..model.text import replace_placeholders
from .blocks import block_of

CROSS = ".attn2.processor"


@dataclass(frozen=True)
class Route:
    """``layers`` maps a cross-attention layer's block to a slot; a block that is not in it sees slot 0."""

    slots: int = 1
    layers: Mapping[str, int] = None

    def slot(self, processor_name: str) -> int:
        return (self.layers or {}).get(block_of(processor_name), 0)


def derive_route(owners: Sequence[Sequence[str]], middle: int | None = 0) -> tuple[Route, list[str]]:
    """Derive the route for prompts whose owners trained ``owners[i]`` (blocks); prompt 0 is the main one.

    A block trained by one sees that one's prompt; by none, the main prompt; by several, the prompt of the one
    with the smallest set. ``middle`` overrides the owner of ``mid_block`` (a slot, or None for the rule).
    Returns the route and the blocks that were claimed more than once and that ``middle`` does not settle.
    """
    layers: dict[str, int] = {}
    contested: list[str] = []
    for block in sorted({b for blocks in owners for b in blocks}):
        claims = [i for i, blocks in enumerate(owners) if block in blocks]
        if len(claims) > 1 and (middle is None or block != "mid_block"):
            contested.append(block)
        layers[block] = min(claims, key=lambda i: (len(owners[i]), i))
    if middle is not None:
        layers["mid_block"] = middle
    return Route(len(owners), {b: s for b, s in layers.items() if s}), contested


def without_tokens(prompt: str, words: Mapping[str, str]) -> str:
    """``prompt`` with each placeholder of ``words`` replaced by its plain word; other text that contains it
    stays."""
    return " ".join(replace_placeholders(prompt, words).split())


class RoutedProcessor:
    """An attention processor that sees one slot of the packed text states and leaves the rest to the usual
    processor."""

    def __init__(self, usual, slot: int, slots: int, gradient: bool = True):
        self.usual, self.slot, self.slots, self.gradient = usual, slot, slots, gradient

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        own = encoder_hidden_states.chunk(self.slots, dim=1)[self.slot]
        return self.usual(attn, hidden_states, own if self.gradient else own.detach(), *args, **kwargs)


def install(
    unet: UNet2DConditionModel, route: Route, constant: Sequence[int] = (), packed: Sequence[str] = ()
) -> None:
    """Route the cross-attention of ``unet`` (a private copy) by ``route``; one slot leaves it as it is.

    No gradient goes back through the ``constant`` slots, so that frozen blocks before the first learning one
    keep no graph. The ``packed`` blocks get all slots, and cut them themselves.
    """
    if route.slots == 1:
        return
    usual = {name: getattr(p, "usual", p) for name, p in unet.attn_processors.items()}
    unet.set_attn_processor({
        name: RoutedProcessor(p, route.slot(name), route.slots, route.slot(name) not in constant)
        if name.endswith(CROSS) and block_of(name) not in packed else p for name, p in usual.items()})
