"""Stable Diffusion 2.x: SD 1.x's UNet with linear projections and heads of 64, read by the last but one layer
of OpenCLIP ViT-H.

One half of its checkpoints predicts v (Salimans and Ho 2022) at 768 pixels, the other noise at 512; a file
does not say which.
"""

from collections.abc import Mapping
from typing import Any

from . import sd1
from .family import Family, Read, Shapes, TowerRow

CLIP_H = {
    **sd1.CLIP_L, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "hidden_act": "gelu", "pad_token_id": 0, "projection_dim": 1024
}
UNET = {
    **sd1.UNET,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
TELLING = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
# of that bias: what predicts v is above it, what predicts noise below, as ComfyUI has it too
SPREAD = 0.09
V = {"prediction_type": "v_prediction"}


def noise(shapes: Shapes, read: Read) -> Mapping[str, Any]:
    """v or noise, by the spread of one bias of a full-size UNet, which training with v makes larger."""
    bias = read(TELLING).get(TELLING)
    if bias is None or float(bias.float().std(correction=0)) <= SPREAD:
        return {}
    return {"scheduler": {**FAMILY.scheduler, **V}, "native_size": 768}


FAMILY = Family(
    name="sd2", title="Stable Diffusion 2.x", context=1024, unet=UNET, vae=sd1.VAE,
    towers=(TowerRow("clip_h", "cond_stage_model.model.", "open_clip", CLIP_H, reads=-2, padding="!",
                     also=("conditioner.embedders.0.model.",)),),
    scheduler=sd1.FAMILY.scheduler, native_size=512, noise=noise,
    recipes={"shape": "escdiff-shape-sd", "appearance": "escdiff-appearance-sd"})
