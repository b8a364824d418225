"""Packages that only some parts need. They are an extra of the pack, not a requirement, and their parts ask
for them first."""

import sys
from importlib.util import find_spec

from .errors import ESCDiffError

# module: the package that brings it, in pyproject's extras "judge" and "networks"
PACKAGES = {"ot": "POT", "matplotlib": "matplotlib", "onnxruntime": "onnxruntime"}


def need(who: str, *modules: str) -> None:
    """Raise ESCDiffError when one of ``modules``, keys of PACKAGES, is not installed; ``who`` needs it."""
    missing = [PACKAGES[module] for module in modules if find_spec(module) is None]
    if missing:
        packages = (
            f"package{'s' * (len(missing) > 1)} {' and '.join(missing)}, which ComfyUI does not bring along"
        )
        raise ESCDiffError(
            f'{who} needs the Python {packages}; run "{sys.executable}" -m pip install {" ".join(missing)}'
        )
