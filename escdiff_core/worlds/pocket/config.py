"""The pocket model's anatomy: that of SD 1.x in small, in the words of diffusers, transformers and open_clip.

Widths are integer multiples of the first and of 32 (group norm), the VAE reduces by 8: ComfyUI's own classes
hold it.
"""

from pathlib import Path

WEIGHTS_DIR = Path(__file__).resolve().parents[2] / "weights"
CHECKPOINT = WEIGHTS_DIR / "pocket.safetensors"
VISION_CHECKPOINT = WEIGHTS_DIR / "pocket_vision.safetensors"
SURFACE_NET = WEIGHTS_DIR / "surface_net.safetensors"     # the judge's, trained on this world's surfaces
FILTERS = WEIGHTS_DIR / "pocket_filters.safetensors"

NATIVE_SIZE = 128
# more makes its colours too strong: right in 94 % of 32 pictures at 2.5, 91 % at 4, 69 % at 8
GUIDANCE = 3.0
CONTEXT_DIM = 192

# 16 cross-attention layers (6 down, 1 middle, 9 up), as in SD 1.x; 64 channels a head, because few heads are
# fast on a CPU.
UNET = {
    "sample_size": NATIVE_SIZE // 8,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [64, 128, 128, 128],
    "layers_per_block": 2,
    "cross_attention_dim": CONTEXT_DIM,
    "attention_head_dim": [1, 2, 2, 2],     # diffusers' name for the number of heads of each level
    "norm_num_groups": 32,
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [32, 64, 128, 128],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": NATIVE_SIZE,
}
VOCABULARY_SIZE = 1280
TEXT_ENCODER = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": CONTEXT_DIM,
    "intermediate_size": 4 * CONTEXT_DIM,
    "projection_dim": CONTEXT_DIM,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "bos_token_id": VOCABULARY_SIZE - 2,
    "eos_token_id": VOCABULARY_SIZE - 1,
    "pad_token_id": VOCABULARY_SIZE - 1,
}
VISION = {  # open_clip's CLIPVisionCfg
    "image_size": NATIVE_SIZE,
    "patch_size": 16,
    "width": CONTEXT_DIM,
    "head_width": 64,
    "layers": 4,
}
# SD's own end value 0.012 leaves so much signal at the last step that the mean of the noise decides the
# background. With almost no signal left there an eps error is an error hundreds of times larger in the
# picture: v-prediction instead of SD 1.x's eps (Lin et al. 2023, arXiv 2305.08891); docs/pocket.md has what
# was seen with both.
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.03,
    "prediction_type": "v_prediction",
}
