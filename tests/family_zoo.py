"""Models of every family: their configurations at full size, and small ones with random weights that hosts
recognise."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from host_small_work import TEXT_LAYERS
from method_zoo import TINY

from escdiff_core.families import FAMILIES, ModelConfig
from escdiff_core.families.load import build_modules, model_from_tensors
from escdiff_core.families.recognise import configured
from escdiff_core.families.save import canonical_tensors, write_checkpoint
from escdiff_core.model.diffusion import DiffusionModel
from escdiff_core.model.names import to_canonical, unet_map, vae_map
from escdiff_core.worlds.pocket.config import VOCABULARY_SIZE
from escdiff_core.worlds.pocket.tokenizer import build_vocabulary

NO_MIDDLE = {"mid_block_type": None}
LONE_RESNET = {"mid_block_type": "UNetMidBlock2D"}
# Of the sisters of SDXL only what tells them from it: how deep their transformers are
UNETS = {
    "sd15": ("sd15", {}), "sd2": ("sd2", {}), "sdxl": ("sdxl", {}),
    "Segmind Vega": ("sdxl", {"transformer_layers_per_block": [[0, 0], [1, 1], [2, 2]], **LONE_RESNET,
                              "reverse_transformer_layers_per_block": [[2, 2, 2], [1, 1, 1], [0, 0, 0]]}),
    "SSD-1B": ("sdxl", {"transformer_layers_per_block": [[0, 0], [2, 2], [4, 4]], **LONE_RESNET,
                        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], [0, 0, 0]]}),
    "KOALA-700M": ("sdxl", {"transformer_layers_per_block": [1, 2, 5], "layers_per_block": 1, **NO_MIDDLE}),
    "KOALA-1B": ("sdxl", {"transformer_layers_per_block": [1, 2, 6], "layers_per_block": 1}),
}


def full_config(name: str) -> ModelConfig:
    """The configuration of a row of UNETS at full size."""
    family, unet = UNETS[name]
    row = FAMILIES[family]
    return configured(row, unet, {}, {tower.name: {} for tower in row.towers})


@cache
def full_size(name: str) -> tuple[dict[str, torch.Tensor], tuple]:
    """A row of UNETS at full size: every tensor of a single file and the modules, on the meta device."""
    return meta_tensors(full_config(name))


def meta_tensors(config: ModelConfig, layers: int | None = None) -> tuple[dict[str, torch.Tensor], tuple]:
    """(every tensor of a single file, the modules), on the meta device: no memory, no time. ``layers`` of
    each text encoder; None: the family's own.
    """
    layers = {t.name: layers or t.config["num_hidden_layers"] for t in FAMILIES[config.family].towers}
    # files hold all layers
    whole = {n: {**text, "num_hidden_layers": layers[n]} for n, text in config.text_encoders.items()}
    modules = build_modules(replace(config, text_encoders=whole))
    return canonical_tensors(*modules, config.family), modules


def tiny_config(name: str, prediction_type: str = "epsilon") -> ModelConfig:
    """A row of UNETS with its own levels and depths, but narrow, and with the pocket model's words."""
    family, change = UNETS[name]
    row = FAMILIES[family]
    ends = {f"{kind}_token_id": TINY["text_encoder"][f"{kind}_token_id"] for kind in ("bos", "eos", "pad")}
    widths = {tower.name: 16 * (i + 2) for i, tower in enumerate(row.towers)}
    texts = {
        tower.name: {
            **tower.config, "vocab_size": VOCABULARY_SIZE, "hidden_size": widths[tower.name],
            "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
            "projection_dim": widths[tower.name], **ends
        }
        for tower in row.towers
    }
    unet = {**row.unet, **change, "cross_attention_dim": sum(widths.values()), "norm_num_groups": 8,
            "block_out_channels": [32] * len(row.unet["block_out_channels"]), "attention_head_dim": 2}
    if "addition_embed_type" in unet:
        unet["projection_class_embeddings_input_dim"] = widths["clip_g"] + 6 * 256
    vae = {**row.vae, "block_out_channels": [32] * 4, "layers_per_block": 1, "norm_num_groups": 8}
    return ModelConfig(family, unet, vae, texts, {**row.scheduler, "prediction_type": prediction_type}, 64,
                       build_vocabulary())


def tiny_family_model(name: str, seed: int = 0, **more) -> DiffusionModel:
    """A row of UNETS in small with random weights."""
    config = tiny_config(name, **more)
    unet, vae, texts = filled(build_modules(config), seed)
    canonical = [
        to_canonical(m.state_dict(), names(m.config)) for m, names in ((unet, unet_map), (vae, vae_map))
    ]
    return model_from_tensors(
        *canonical, {n: m.state_dict() for n, m in texts.items()}, config, torch.device("cpu")
    )


def random_checkpoint(path: Path, config: ModelConfig, layers: int | None = None) -> Path:
    """Write a checkpoint of ``config`` with random weights."""
    write_checkpoint(path, *filled(meta_tensors(config, layers)[1], 0), None, family=config.family)
    return path


def filled(modules: tuple, seed: int) -> tuple:
    """(UNet, VAE, text encoders) from the meta device, with weights drawn so that what goes in comes out
    about as large."""
    generator = torch.Generator().manual_seed(seed)

    def fill(module):
        module.to_empty(device="cpu")
        for name, parameter in module.named_parameters():
            fans = parameter[0].numel() if parameter.ndim > 1 else 1
            if parameter.ndim > 1:
                torch.nn.init.normal_(
                    parameter, std=0.02 if "embedding" in name else fans**-0.5, generator=generator
                )
            else:
                torch.nn.init.constant_(parameter, float(name.endswith("weight")))
        for name, buffer in module.named_buffers():
            if name.endswith("position_ids"):
                buffer.copy_(torch.arange(buffer.shape[-1])[None])
        return module.eval()

    unet, vae, texts = modules
    return fill(unet), fill(vae), {n: fill(m) for n, m in texts.items()}


def write_family_models(folder: Path) -> Path:
    """Checkpoints below ``folder`` that every ComfyUI takes for SD 2.x and Segmind Vega: it asks for a first
    width of 320, for the transformers' depths and the text's width, so the other widths and the levels of SD
    2.x may be fewer. The text encoders have TEXT_LAYERS, which the host must be told.
    """
    (folder / "checkpoints").mkdir()
    sd2, vega = full_config("sd2"), full_config("Segmind Vega")
    two_levels = {
        "block_out_channels": [320, 320],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
        "attention_head_dim": [5, 5],
    }
    narrow = {"block_out_channels": [320, 320, 320], "attention_head_dim": [5, 5, 5]}
    for name, config, unet in (("sd2", sd2, two_levels), ("sdxl", vega, narrow)):
        smaller = replace(config, unet={**config.unet, **unet})
        random_checkpoint(folder / "checkpoints" / f"{name}_random.safetensors", smaller, TEXT_LAYERS)
    return folder
