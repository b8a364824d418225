"""Progress bar, live preview and cancel of long work inside the host."""

from collections.abc import Callable

import comfy.model_management
import comfy.utils
from PIL import Image

PREVIEW_PIXELS = 512    # longest side the host shows


def reporter(
    total: int, preview: Callable[..., Image.Image | None] = lambda *so_far: None, every: int = 0
) -> Callable[..., None]:
    """A function to call with the number of finished steps, and whatever ``preview`` makes a picture of: it
    moves the node's bar and shows a picture every ``every`` steps.

    It raises the host's own interruption when the user cancels.
    """
    bar = comfy.utils.ProgressBar(total)

    def report(done: int, *so_far) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        picture = preview(*so_far) if every and done % every == 0 and done < total else None
        bar.update_absolute(done, total, ("JPEG", picture, PREVIEW_PIXELS) if picture is not None else None)

    return report


def room(needed_bytes: float) -> float:
    """Make room for ``needed_bytes`` on the host's device; returns how many are free there then."""
    make_room(needed_bytes)
    return comfy.model_management.get_free_memory(comfy.model_management.get_torch_device())


def make_room(needed_bytes: float) -> None:
    """Let the host unload what it must so that ``needed_bytes`` fit beside it on its device."""
    comfy.model_management.free_memory(needed_bytes, comfy.model_management.get_torch_device())
