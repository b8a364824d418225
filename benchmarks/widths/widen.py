"""A model made wider that is the same function: every channel of its UNet stands several times (Net2WiderNet,
Chen et al. 2016, arXiv 1511.05641)."""

import re
from dataclasses import replace

import torch
from diffusers import UNet2DConditionModel

from escdiff_core.model.diffusion import DiffusionModel

_INTO_HEADS = re.compile(r"\.to_[qkv]\.")     # rows are heads side by side; behind them come columns
_FROM_HEADS = ".to_out.0.weight"
_TIME = "time_embedding.linear_1.weight"      # its columns read waves, not channels


def widened(model: DiffusionModel, factor: int) -> DiffusionModel:
    """``model`` with a UNet of ``factor`` times the channels and heads that computes the same to rounding."""
    config = {k: v for k, v in model.unet.config.items() if not k.startswith("_")}
    heads = config["attention_head_dim"]      # diffusers calls their number so
    config["block_out_channels"] = [factor * c for c in config["block_out_channels"]]
    config["attention_head_dim"] = (
        factor * heads if isinstance(heads, int) else [factor * each for each in heads]
    )
    wide = UNet2DConditionModel.from_config(config)
    shapes = {name: tensor.shape for name, tensor in wide.state_dict().items()}
    modules = model.unet.named_modules()
    of_module = {name: module.heads for name, module in modules if hasattr(module, "heads")}
    state = {name: _widened(name, tensor, shapes[name], factor, of_module)
             for name, tensor in model.unet.state_dict().items()}
    wide.load_state_dict(state)
    wide.eval().requires_grad_(False)
    return replace(model, unet=wide.to(model.device),
                   fingerprint=f"{model.fingerprint}-{factor}")


def _widened(name: str, tensor: torch.Tensor, shape: torch.Size, factor: int,
             heads: dict[str, int]) -> torch.Tensor:
    """``tensor`` at ``shape``: rows stand ``factor`` times, and what then reads each channel as often reads a
    share of it."""
    if name == _TIME:       # the waves between the old ones are not read
        wide = torch.zeros(len(tensor), shape[1], dtype=tensor.dtype)
        wide[:, ::factor] = tensor
        tensor = wide
    of_heads = heads.get(name.split(".to_")[0], 1)
    if tensor.ndim > 1 and shape[1] != tensor.shape[1]:
        columns = tensor.unflatten(1, (of_heads, -1)) if name.endswith(_FROM_HEADS) else tensor
        tensor = (columns / factor).repeat_interleave(factor, 1).reshape(len(tensor), -1, *tensor.shape[2:])
    if shape[0] != len(tensor):
        rows = tensor.unflatten(0, (of_heads, -1)) if _INTO_HEADS.search(name) else tensor
        tensor = rows.repeat_interleave(factor, 0).reshape(shape)
    return tensor
