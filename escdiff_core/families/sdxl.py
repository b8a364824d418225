"""SDXL (Podell et al. 2023) and its smaller sisters (Segmind Vega, SSD-1B, KOALA): three levels, two text
towers side by side, a pooled vector and the picture's size beside the timestep, 1024 pixels.
"""

from collections.abc import Mapping
from typing import Any

from . import sd1
from .family import Family, Read, Shapes, TowerRow

CLIP_G = {
    **sd1.CLIP_L, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 20, "hidden_act": "gelu", "pad_token_id": 0, "projection_dim": 1280
}
UNET = {
    **sd1.UNET,
    "sample_size": 128,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [320, 640, 1280],
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    # 1280 of the pooled vector and 256 of each of six numbers
    "projection_class_embeddings_input_dim": 2816,
}


def noise(shapes: Shapes, read: Read) -> Mapping[str, Any]:
    """v where the file carries the mark that its trainers put into it, an empty tensor of that name."""
    return (
        {"scheduler": {**FAMILY.scheduler, "prediction_type": "v_prediction"}} if "v_pred" in shapes else {}
    )


def refused(unet: Mapping[str, Any]) -> str:
    """What a UNet is that looks like one of the family and is none."""
    width = unet.get("projection_class_embeddings_input_dim")
    return (
        ""
        if width == UNET["projection_class_embeddings_input_dim"]
        else (
            f"an SDXL with {width} numbers beside the timestep, not "
            f"{UNET['projection_class_embeddings_input_dim']}"
        )
    )


FAMILY = Family(
    name="sdxl", title="SDXL", context=2048, unet=UNET,
    vae={**sd1.VAE, "sample_size": 1024, "scaling_factor": 0.13025},
    towers=(TowerRow("clip_l", "conditioner.embedders.0.transformer.", "transformers", sd1.CLIP_L, reads=-2,
                     normed=False),
            TowerRow("clip_g", "conditioner.embedders.1.model.", "open_clip", CLIP_G, "text_encoder_2",
                     "tokenizer_2", reads=-2, normed=False, pooled=True,
                     padding="!")), scheduler=sd1.FAMILY.scheduler, native_size=1024, noise=noise,
    refused=refused, recipes={"shape": "escdiff-shape-sd", "appearance": "escdiff-appearance-sd"})
