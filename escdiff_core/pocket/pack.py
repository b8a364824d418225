"""Put the trained parts together: one checkpoint in the original SD layout, and the vision tower beside it."""

import json
import shutil
from pathlib import Path

from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ..metrics import surface_net
from . import config, train_unet, train_vae
from .tokenizer import build_vocabulary


def unpack(directory: Path) -> None:
    """Write the shipped checkpoint's parts to ``directory``, so that training can go on from them anywhere."""
    from ..model.load import load_model

    model = load_model("pocket", "cpu")
    directory.mkdir(parents=True, exist_ok=True)
    parts = {"unet": model.unet, "vae": model.vae, "text": model.text_encoder}
    for name, module in parts.items():
        state = {k: v.half().contiguous() for k, v in module.state_dict().items()}
        save_file(state, directory / f"{name}.safetensors", {"scaling_factor": str(model.vae.config.scaling_factor)})
    shutil.copyfile(config.VISION_CHECKPOINT, directory / "vision.safetensors")
    shutil.copyfile(surface_net.FILE, directory / "surface_net.safetensors")


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
    config.VISION_CHECKPOINT.chmod(config.CHECKPOINT.stat().st_mode)   # safetensors makes private files
    shutil.copyfile(directory / "surface_net.safetensors", surface_net.FILE)
    surface_net.FILE.chmod(config.CHECKPOINT.stat().st_mode)
    made = (config.CHECKPOINT, config.VISION_CHECKPOINT, surface_net.FILE)
    print(json.dumps({p.name: f"{p.stat().st_size / 1e6:.1f} MB" for p in made}))
