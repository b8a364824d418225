"""ESCDiff for ComfyUI: the shape of this, the look of that. ComfyUI finds the nodes through
``comfy_entrypoint``."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Return the extension; imported here, because ``comfy_api`` exists only inside ComfyUI."""
    from .nodes.extension import ESCDiffExtension

    return ESCDiffExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
