"""A GPU that is not there: tensors that say they lie on it, compute on the CPU and, as a GPU's, mix with none
of the CPU's.

It shows whether all that a run touches is brought to the device, and what it keeps there. It cannot show how
fast a GPU is, nor what its own kernels compute.
"""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode

CARD = torch.device("cuda", 0)
TOTAL = 2**40
# where what they hold lies. "meta" is nowhere: tensors too large to be computed with here, of which only the
# sizes are of interest; what leaves the card is zeros then, and numbers are ones
PLACE = "cpu"
aten, Tensor = torch.ops.aten, torch.Tensor
# those of the CPU may index tensors of a GPU
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
INDEXES = 1         # their second argument
LEAVING = {Tensor.numpy, Tensor.__array__}


class Allocator:
    """Bytes that lie on the card, each storage once."""

    def __init__(self):
        self.holders, self.sizes, self.now, self.most, self.peak = Counter(), {}, 0, 0, 0
        self.limit = float("inf")
        self.asked = 0      # how often a number was read, for which a GPU's queue must have run empty

    def take(self, tensor: "OnCard") -> None:
        storage = tensor.held.untyped_storage()
        place = storage._cdata
        if not self.holders[place]:
            if self.now + storage.nbytes() > self.limit:
                del self.holders[place]
                raise torch.OutOfMemoryError(f"CUDA out of memory: {storage.nbytes()} bytes were asked for")
            self.sizes[place] = storage.nbytes()
            self.now += storage.nbytes()
            self.most, self.peak = max(self.most, self.now), max(self.peak, self.now)    # peak is torch's own
        self.holders[place] += 1
        weakref.finalize(tensor, self.give_back, place, storage)

    def give_back(self, place: int, storage) -> None:       # whose place no other takes before this
        self.holders[place] -= 1
        if not self.holders[place]:
            self.now -= self.sizes.pop(place)
            del self.holders[place]


allocator = Allocator()


class OnCard(Tensor):
    """A tensor of the card; ``held`` has its values."""

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnCard":
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype)
        made.held = held
        allocator.take(made)
        return made

    device = property(lambda self: CARD)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def __repr__(self, **_) -> str:
        return f"OnCard({self.held!r})"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return call(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def each(change, value):
    """``value`` with every tensor in it replaced by ``change(tensor)``; torch's own tree_map takes as long as
    the work itself."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)([each(change, v) for v in value])
    return {k: each(change, v) for k, v in value.items()} if isinstance(value, dict) else value


def is_card(device) -> bool:
    return device is not None and torch.device(device).type == CARD.type


def held(value):
    """What an operation is given of a tensor; numbers, and others' indices, are brought along."""
    if isinstance(value, OnCard):
        return value.held
    return value.to(PLACE) if isinstance(value, Tensor) and value.dim() else value


def values(tensor: Tensor) -> Tensor:
    """What ``tensor`` holds, on the CPU."""
    allocator.asked += isinstance(tensor, OnCard)
    inside = tensor.held if isinstance(tensor, OnCard) else tensor
    return torch.zeros_like(inside, device="cpu") if inside.is_meta else inside


def _zeros_of_autograd(value):
    """On its way back, autograd makes zeros for what nobody used, of a kind that it cannot know here."""
    plain = type(value) is Tensor and value.dim() and not value.is_meta and not value.any()
    return OnCard(value.to(PLACE)) if plain else value


def compute(func, args, kwargs):
    """Run an operation that has a tensor of the card among its own. Raises RuntimeError for others of the
    CPU."""
    name = func.overloadpacket
    if torch._C._current_graph_task_id() != -1:
        args = each(_zeros_of_autograd, args)
    if name is aten.copy_:
        return copied(*args)
    given: list[Tensor] = []
    each(given.append, (args, kwargs))
    counted = given
    if name in INDEXING:
        counted = [t for i, t in enumerate(args) if i != INDEXES and isinstance(t, Tensor)]
    if any(t.dim() and not isinstance(t, OnCard) for t in counted):
        raise RuntimeError(f"{func} of tensors on two devices: {[(str(t.device), *t.shape) for t in given]}")
    if name is aten._local_scalar_dense:
        allocator.asked += 1
        return (torch.ones_like(args[0].held, device="cpu") if PLACE == "meta" else args[0].held).item()
    if kwargs.get("device") is not None:        # autograd's, to which these tensors are the CPU's
        kwargs = {**kwargs, "device": torch.device(PLACE)}
    known = {id(t.held): t for t in given if isinstance(t, OnCard)}
    out = func(*each(held, args), **each(held, kwargs))
    return each(lambda t: known.get(id(t), t) if id(t) in known or type(t) is not Tensor else OnCard(t), out)


def copied(to: Tensor, source: Tensor, *_more) -> Tensor:
    """``to.copy_(source)``, which may cross."""
    if isinstance(to, OnCard):
        to.held.copy_(held(source))
    else:
        to.copy_(values(source))
    return to


def moved(tensor: Tensor, device, dtype, copy: bool, form) -> Tensor:
    """What ``Tensor.to`` returns: itself where nothing changes."""
    to_card = isinstance(tensor, OnCard) if device is None else is_card(device)
    how = {"dtype": tensor.dtype if dtype is None else dtype, "copy": copy,
           "memory_format": torch.preserve_format if form is None else form}
    if to_card == isinstance(tensor, OnCard):
        return Tensor.to(tensor, **how, **({} if to_card or device is None else {"device": device}))
    return Crossing.apply(tensor, how | {"copy": True}, to_card)


class Crossing(torch.autograd.Function):
    """A copy on the other device."""

    @staticmethod
    def forward(ctx, tensor, how, to_card):
        ctx.back = not to_card, tensor.dtype
        return crossed(tensor.detach(), to_card, **how)

    @staticmethod
    def backward(ctx, grad):
        to_card, dtype = ctx.back
        return crossed(grad, to_card, dtype=dtype, copy=True), None, None


def crossed(tensor: Tensor, to_card: bool, **how) -> Tensor:
    if not to_card:
        return Tensor.to(values(tensor), **how)
    return OnCard(Tensor.to(tensor, PLACE).to(**how) if PLACE == "meta" else Tensor.to(tensor, **how))


def call(func, args, kwargs):
    """A function of torch, as Python calls it."""
    with torch._C.DisableTorchFunctionSubclass(), torch._C.DisableTorchFunction():
        if func in MOVES:
            return MOVES[func](*args, **kwargs)
        if func in LEAVING and isinstance(args[0], OnCard):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func is Tensor.tolist:
            return values(args[0]).tolist()
        if func is Tensor.untyped_storage:
            return func(getattr(args[0], "held", args[0]))
        if func is torch._has_compatible_shallow_copy_type:
            return func(*map(held, args)) and isinstance(args[0], OnCard) == isinstance(args[1], OnCard)
        if func == Tensor.data.__get__:
            return args[0].detach()
        if func == Tensor.data.__set__:
            args[0].held = args[1].held         # one of the CPU's has none, and cannot become another class
            return func(*args)
        device = kwargs.get("device")
        if device is None:
            return func(*args, **kwargs)
        if is_card(device):
            return OnCard(func(*each(held, args), **{**kwargs, "device": torch.device(PLACE)}))
        return func(*each(lambda t: values(t) if isinstance(t, OnCard) else t, args), **kwargs)


def to(tensor: Tensor, *how, copy: bool = False, non_blocking: bool = False, **more) -> Tensor:
    """``Tensor.to`` with all its ways of being called."""
    if how and isinstance(how[0], Tensor):
        how = how[0].device, how[0].dtype
    device, dtype, _, form = torch._C._nn._parse_to(*(a for a in how if not isinstance(a, bool)), **more)
    return moved(tensor, device, dtype, copy, form)


MOVES = {Tensor.to: to, Tensor.cpu: lambda tensor, *_: to(tensor, "cpu"),
         Tensor.cuda: lambda tensor, *_: to(tensor, CARD)}


class _Catch(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return call(func, args, kwargs or {})


# of torch.cuda, what anybody here or in a ComfyUI asks for
GPU = {
    "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0,
    "set_device": lambda device: None, "empty_cache": lambda: None, "synchronize": lambda device=None: None,
    "is_current_stream_capturing": lambda: False, "get_device_capability": lambda device=None: (9, 0),
    "get_device_name": lambda device=None: "a pretended card",
    "get_device_properties": lambda device=None: SimpleNamespace(total_memory=TOTAL, name="pretended"),
    "memory_allocated": lambda device=None: allocator.now,
    "memory_reserved": lambda device=None: allocator.now,
    "max_memory_allocated": lambda device=None: allocator.peak,
    "reset_peak_memory_stats": lambda device=None: setattr(allocator, "peak", allocator.now),
    "mem_get_info": lambda device=None: (int(allocator.limit - allocator.now), TOTAL),
    "get_per_process_memory_fraction": lambda device=None: 1.0,
}


@contextmanager
def card(free: float = TOTAL) -> Iterator[Allocator]:
    """While open there is a GPU, ``cuda:0``, with ``free`` bytes beside what is taken already."""
    autocast, allocator.limit = torch.autocast, allocator.now + free
    overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
    # a weight that moves is another one: it cannot become another class
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with patch.multiple(torch.cuda, create=True, **GPU), \
                patch.object(torch, "autocast", lambda kind, *a, **k: autocast("cpu", *a, **k)), \
                patch.object(torch.accelerator, "is_available", lambda: False), _Catch():
            yield allocator
    finally:
        allocator.limit = float("inf")
        torch.__future__.set_overwrite_module_params_on_conversion(overwritten)
