"""ESCDiff: the shape of one picture and the appearance of another, learned as separate attributes. Never
imports comfy."""

__version__ = "0.4.0"
