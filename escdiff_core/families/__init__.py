"""The families of models, one module each: what tells Stable Diffusion 1.x, 2.x and SDXL from one another."""

from collections.abc import Mapping

from ..model.names import unet_map
from ..registry import world_of
from . import sd1, sd2, sdxl
from .family import Family, ModelConfig, TowerRow, names_of

FAMILIES: Mapping[str, Family] = {module.FAMILY.name: module.FAMILY for module in (sd1, sd2, sdxl)}
SUPPORTED = names_of(list(FAMILIES.values()))



def usual_recipes(family: str, source: str = "") -> Mapping[str, str]:
    """What each kind is learned with on a model of ``family``, read from the file ``source``, where nobody
    asks for another."""
    world = world_of(source)
    return world.recipes if world else FAMILIES[family].recipes


def usual_names(family: str) -> dict[str, str]:
    """diffusers' names to canonical ones, of every tensor that a UNet of ``family`` with its levels and
    layers may have."""
    unet = FAMILIES[family].unet
    # Widths that differ from level to level give a skip convolution to each, so that no name is missing
    return unet_map(
        {**unet, "block_out_channels": [32 * (i + 1) for i in range(len(unet["block_out_channels"]))]}
    )


__all__ = ["FAMILIES", "SUPPORTED", "Family", "ModelConfig", "TowerRow", "usual_names", "usual_recipes"]
