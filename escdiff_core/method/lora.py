"""The LoRA form of a recipe (Hu et al. 2021), through peft: low-rank factors on every linear and convolution of the blocks."""

from collections.abc import Sequence

from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import nn


def add_lora(unet: UNet2DConditionModel, names: Sequence[str], rank: int) -> dict[str, nn.Parameter]:
    """Put trainable factors beside the linears and convolutions among the tensors ``names``; returns them by name.

    Names end in ``.lora_A.weight`` (down, (r, in, …)) and ``.lora_B.weight`` (up, (out, r, …)); alpha equals the rank, so
    that strength scales the product once.
    """
    modules = {n.removesuffix(".weight") for n in names if n.endswith(".weight")}
    targets = [n for n, m in unet.named_modules() if n in modules and isinstance(m, (nn.Linear, nn.Conv2d))]
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights=True))
    factors = {n.replace(".default", ""): p for n, p in unet.named_parameters() if "lora_" in n}
    for parameter in factors.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return factors
