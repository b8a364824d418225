"""Stable Diffusion 1.x (Rombach et al. 2022): one CLIP ViT-L tower, 4-channel latents, 512 pixels."""

from ..model.schedule import NoiseSchedule
from .family import Family, TowerRow

VAE = {
    "sample_size": 512,
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
    "projection_dim": 768,
}
UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "transformer_layers_per_block": 1,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,  # diffusers' historical name: this is the number of heads
    "use_linear_projection": False,
}
FAMILY = Family(
    name="sd15", title="Stable Diffusion 1.x", context=768, unet=UNET, vae=VAE,
    towers=(TowerRow("clip_l", "cond_stage_model.transformer.", "transformers", CLIP_L),),
    scheduler=NoiseSchedule().config(), native_size=512,
    recipes={"shape": "escdiff-shape-sd", "appearance": "escdiff-appearance-sd"})
