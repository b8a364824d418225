"""How attributes share one UNet: whose prompt each block sees, whose delta each weight has, and in which part
of the schedule."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ..attribute import Attribute
from ..choices import MIDDLES, OVERLAPS, STAGES
from ..errors import ESCDiffError
from ..unet.route import Route, derive_route
from ..unet.tokens import by_stage, only_row, only_stage
from .delta import own_channels, shared_tensors

log = logging.getLogger(__name__)
MIDDLE_BLOCK = "middle_block."       # of canonical names


@dataclass(frozen=True)
class Use:
    """An attribute in use: strength -4 to 4 (1 as learned, 0 off), active from ``start`` to ``end`` of the
    schedule (0 to 1)."""

    attribute: Attribute
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self):
        if not -4 <= self.strength <= 4:
            raise ESCDiffError(
                f"a strength of {self.strength} makes no sense; give -4 to 4, 1 is as learned, 0 is off"
            )
        if not 0 <= self.start <= self.end <= 1:
            raise ESCDiffError(
                f"the schedule range {self.start} to {self.end} makes no sense; needed: 0 <= start <= "
                "end <= 1"
            )

    def acts_at(self, progress: float) -> bool:
        """Is the attribute active at ``progress``, 0 to 1? A point on a border belongs to the part of the
        schedule before it."""
        return self.start < self.end and progress <= self.end and (self.start < progress or self.start == 0)


@dataclass(frozen=True)
class Plan:
    """How the ``active`` share one UNet evaluation: ``slots[i]`` are the uses whose tokens prompt i knows,
    prompt 0 the main one.

    ``middle_owner`` is the attribute whose delta of the middle block counts, None for nobody; ``overlap`` is
    of OVERLAPS.
    """

    slots: tuple[tuple[Use, ...], ...]
    route: Route
    middle_owner: Attribute | None
    active: tuple[Use, ...]
    overlap: str

    @property
    def weights(self) -> tuple:
        """What is done to the weights, to compare plans by: whose deltas, how strongly, and with which
        middle.

        Deltas are compared as objects: variants of an attribute, such as its stages, carry the same one.
        """
        return tuple(
            (id(u.attribute.delta), u.strength, u.attribute is self.middle_owner) for u in self.active
        )

    def acting(self) -> list[Use]:
        """The active uses with what counts of their deltas: the owner's middle block, and own channels where
        they divide.

        A tensor that counts whole is the very same object as in the use.
        """
        used = [
            u if u.attribute is self.middle_owner else replace(u, attribute=_without_middle(u.attribute))
            for u in self.active
        ]
        attributes = [u.attribute for u in used]
        if shared := shared_tensors(attributes):
            log.info(
                "both attributes changed %d tensors: %s", len(shared), "both changes add" if self.overlap
                == "add" else "each output channel of them keeps the one that is relatively larger")
        owned = own_channels(attributes) if self.overlap == "divide" else attributes
        return [replace(u, attribute=attribute) for u, attribute in zip(used, owned, strict=True)]


def _without_middle(attribute: Attribute) -> Attribute:
    rest = {name: tensor for name, tensor in attribute.delta.items() if not name.startswith(MIDDLE_BLOCK)}
    return attribute if len(rest) == len(attribute.delta) else replace(attribute, delta=rest)


def plan_mix(
    active: Sequence[Use], middle: str = "shape", cross: Sequence[str] = (), overlap: str = "divide"
) -> Plan:
    """Derive slots and route from the attributes in use; ``middle`` owns the middle block if it is there to
    ask for.

    Tokens with reach ``all`` are known to every slot. Tokens with a vector for each of the
    ``cross``-attention blocks (see tokens.cross_blocks) take a slot for each.
    """
    by_kind = {use.attribute.kind: use for use in active}
    main = by_kind.get("shape") or by_kind.get("concept")
    rider = by_kind.get("appearance")
    slots: list[tuple[Use, ...]] = [(main,) if main else ()]
    owners: list[tuple[str, ...]] = [main.attribute.blocks if main else ()]
    if rider:
        slots.append((rider,))
        owners.append(rider.attribute.blocks)
    middle_slot, middle_owner = 0, main.attribute if main else None
    if middle == "appearance" and rider:
        middle_slot, middle_owner = 1, rider.attribute
    elif middle == "shape" and rider and not main:      # nobody to ask for: as it was learned, alone
        middle_slot, middle_owner = None, rider.attribute
    elif middle == "none" and main:
        middle_slot, middle_owner = len(slots), None
        slots.append(())
        owners.append(())
    route, contested = derive_route(owners, middle_slot)
    known = [tuple(u for u in active if u in own or u.attribute.reach == "all") for own in slots]
    slots, route = _share(known, route, cross)
    if contested and route.slots > 1:                     # with one slot for all there is nothing to choose
        log.info("both attributes trained %s: the smaller set's token is seen there", ", ".join(contested))
    return Plan(slots, route, middle_owner, tuple(active), overlap)


def _share(
    known: Sequence[tuple[Use, ...]], route: Route, cross: Sequence[str]
) -> tuple[tuple[tuple[Use, ...], ...], Route]:
    """Slots that know the same become one; one that knows a token with a vector per layer becomes one for
    each layer."""
    base = route.layers or {}

    def of_layer(uses: tuple[Use, ...], row: int) -> tuple[Use, ...]:
        return tuple(
            replace(u, attribute=only_row(u.attribute, row)) if u.attribute.layout == "layers" else u
            for u in uses
        )

    def layered(uses: tuple[Use, ...]) -> bool:
        return any(u.attribute.layout == "layers" for u in uses)

    # The main slot is also what a ControlNet reads: with a vector per layer, that of the first layer which
    # reads it
    first = next((i for i, block in enumerate(cross) if not base.get(block, 0)), 0)
    slots, layers = [of_layer(known[0], first)], {}
    for block in dict.fromkeys([*cross, *base]):
        uses = known[base.get(block, 0)]
        if layered(uses):
            if block not in cross:
                continue
            uses = slots[0] if block == cross[first] and not base.get(block, 0) else of_layer(
                uses, cross.index(block))
        if uses not in slots:
            slots.append(uses)
        layers[block] = slots.index(uses)
    return tuple(slots), Route(len(slots), {b: s for b, s in layers.items() if s})


def schedule_parts(used: Sequence[Use]) -> list[tuple[float, float, list[Use]]]:
    """The schedule, 0 to 1, cut where an attribute begins or ends: (start, end, the uses that are active
    there).

    A token with vectors per stage is cut at the stages' borders too, and has its stage's alone in each part.
    """
    staged = [u for u in used if by_stage(u.attribute.layout)]
    borders = [i / STAGES for i in range(1, STAGES)] if staged else []
    marks = sorted({0.0, 1.0, *borders, *(v for u in used for v in (u.start, u.end))})
    parts: list[tuple[float, float, list[Use]]] = []
    for start, end in pairwise(marks):
        middle = (start + end) / 2
        active = [
            u
            if u not in staged
            else replace(u, attribute=only_stage(u.attribute, int(STAGES * (1 - middle))))
            for u in used
            if u.acts_at(middle)
        ]
        if parts and parts[-1][2] == active:
            parts[-1] = (parts[-1][0], end, active)
        else:
            parts.append((start, end, active))
    return parts


def plain_words(everyone: Sequence[Use], own: Sequence[Use]) -> dict[str, str]:
    """What stands for each token in a slot: its plain word, or itself where the slot owns it (it may contain
    another's)."""
    tokens = {u.attribute.token for u in own}
    return {
        u.attribute.token: u.attribute.token if u.attribute.token in tokens else u.attribute.word
        for u in everyone
    }


def check_uses(
    shape: Use | None, appearance: Use | None, middle: str, overlap: str, fingerprint: str
) -> list[Use]:
    """The uses that were given. Raises ESCDiffError for a wrong kind, another base model, one token for two,
    or a bad choice."""
    for what, given, known in (
        ("owner of the middle block", middle, MIDDLES),
        ("treatment of an overlap", overlap, OVERLAPS),
    ):
        if given not in known:
            raise ESCDiffError(f"unknown {what} {given!r}; known: {', '.join(known)}")
    for use, kinds in ((shape, ("shape", "concept")), (appearance, ("appearance",))):
        if use is not None and use.attribute.kind not in kinds:
            raise ESCDiffError(f"an attribute of kind {use.attribute.kind!r} was given as {kinds[0]}; "
                               f"allowed there: {' or '.join(kinds)}")
    given = [u for u in (shape, appearance) if u is not None]
    for use in given:
        use.attribute.check_base(fingerprint)
    tokens = [u.attribute.token for u in given]
    if len(set(tokens)) < len(tokens):
        raise ESCDiffError(
            f"both attributes answer to the token {tokens[0]!r}; learn one of them with another token name"
        )
    return given
