"""The reference: one picture, ready to learn from, with its subject's mask."""

from .picture import Reference, load_reference

__all__ = ["Reference", "load_reference"]
