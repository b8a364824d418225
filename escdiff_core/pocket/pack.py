"""Put the trained parts together: one checkpoint in the original SD layout, and the vision tower beside it."""

import json
import shutil
from pathlib import Path

from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file

from . import config, train_unet, train_vae
from .tokenizer import build_vocabulary


def pack(directory: Path) -> None:
    """Write ``config.CHECKPOINT`` and ``config.VISION_CHECKPOINT`` from the parts in ``directory``."""
    import torch

    from ..model.checkpoint import write_checkpoint

    cpu = torch.device("cpu")
    unet = UNet2DConditionModel(**config.UNET)
    unet.load_state_dict({k: v.float() for k, v in load_file(directory / "unet.safetensors").items()})
    with safe_open(directory / "unet.safetensors", "pt") as file:
        scale = float(file.metadata()["scaling_factor"])
    configuration = {
        "unet": config.UNET, "vae": {**config.VAE, "scaling_factor": scale}, "text_encoder": config.TEXT_ENCODER,
        "scheduler": config.SCHEDULER, "native_size": config.NATIVE_SIZE, "tokenizer": build_vocabulary(),
    }
    config.WEIGHTS_DIR.mkdir(exist_ok=True)
    write_checkpoint(config.CHECKPOINT, unet, train_vae.load(directory, cpu),
                     train_unet.load_text(directory, cpu, torch.float32), configuration)
    shutil.copyfile(directory / "vision.safetensors", config.VISION_CHECKPOINT)
    print(json.dumps({p.name: f"{p.stat().st_size / 1e6:.1f} MB" for p in (config.CHECKPOINT, config.VISION_CHECKPOINT)}))
