"""What the two faces call the same thing. A sentence of the core says ``‹key›``, and each face puts its own
words there."""

import re

FACES = ("command", "node")
WORDS = {  # key: what a command says, what a node says
    "no mask": ("give --mask none", "take the mask away"),
    "invert": (
        "invert the mask picture: white is the subject",
        "put InvertMask in between: Load Image's mask is 1 where a picture is transparent",
    ),
    "another model": ("give --model PATH", "load a checkpoint"),
    "the encoder": ("with --encoder", "at the input encoder"),
    "afresh": ("start afresh without --resume", "delete the folder to start afresh"),
    "the pictures": ("--images", "the folder"),
    "export the token": ("use `export --format embedding`", "choose the form embedding"),
    "export the weights": ("use `export --format lora`", "choose the form lora"),
    "export all": ("use `export --format full`", "choose the form full"),
    "an attribute": (
        "give a .safetensors file made by `learn`",
        "choose a file made by ESCDiff Save Attribute",
    ),
    "make filters": (
        "train one with `python -m escdiff_core train-filters`",
        "make one with ESCDiff Train Filters",
    ),
    "a filter file": (
        "give a file that `train-filters` wrote",
        "choose a file that ESCDiff Train Filters wrote",
    ),
}


def worded(sentence: str, face: str) -> str:
    """``sentence`` in the words of ``face``, one of FACES; a mark that is no key stays as it is."""
    column = FACES.index(face)
    return re.sub("‹(.+?)›", lambda mark: WORDS[mark[1]][column] if mark[1] in WORDS else mark[0], sentence)
