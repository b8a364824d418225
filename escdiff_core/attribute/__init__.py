"""The attribute: its tensors, its file, its exports."""

from .file import Attribute

__all__ = ["Attribute"]
