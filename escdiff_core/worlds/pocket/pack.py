"""Put the trained parts together: one checkpoint in the original SD layout, and the vision tower beside
it."""

import json
import shutil
from pathlib import Path

from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from . import config, train_unet, train_vae
from .tokenizer import build_vocabulary

# of fp16's ten of a weight's mantissa: as many as bf16 has, and an archive packs the zeros behind them
KEPT_BITS = 7


def round_off(path: Path) -> None:
    """Round every weight of a file to ``KEPT_BITS``, so that the pack's archive is a sixth smaller."""
    import torch

    with safe_open(path, "pt") as file:
        about = file.metadata()
    unit = 1 << (10 - KEPT_BITS)
    rounded = {}
    for name, weight in load_file(path).items():
        bits = weight.view(torch.int16).int()
        rounded[name] = ((bits + unit // 2) & -unit).to(torch.int16).view(
            weight.dtype) if weight.dtype is torch.float16 else weight
    save_file(rounded, path, about)
    path.chmod(0o644)              # safetensors makes private files


def unpack(directory: Path) -> None:
    """Write the shipped checkpoint's parts to ``directory``, so that training can go on from them
    anywhere."""
    from ...families.load import load_model

    model = load_model("pocket", "cpu")
    directory.mkdir(parents=True, exist_ok=True)
    parts = {"unet": model.unet, "vae": model.vae, "text": model.text_encoder}
    for name, module in parts.items():
        state = {k: v.half().contiguous() for k, v in module.state_dict().items()}
        save_file(
            state, directory / f"{name}.safetensors", {"scaling_factor": str(model.vae.config.scaling_factor)}
        )
    shutil.copyfile(config.VISION_CHECKPOINT, directory / "vision.safetensors")
    shutil.copyfile(config.SURFACE_NET, directory / "surface_net.safetensors")


def pack(directory: Path) -> None:
    """Write ``config.CHECKPOINT`` and ``config.VISION_CHECKPOINT`` from the parts in ``directory``."""
    import torch

    from ...families.save import write_checkpoint

    cpu = torch.device("cpu")
    unet = UNet2DConditionModel(**config.UNET)
    unet.load_state_dict({k: v.float() for k, v in load_file(directory / "unet.safetensors").items()})
    with safe_open(directory / "unet.safetensors", "pt") as file:
        scale = float(file.metadata()["scaling_factor"])
    configuration = {
        "unet": config.UNET, "vae": {**config.VAE, "scaling_factor": scale},
        "text_encoder": config.TEXT_ENCODER, "scheduler": config.SCHEDULER, "native_size": config.NATIVE_SIZE,
        "tokenizer": build_vocabulary(),
    }
    config.WEIGHTS_DIR.mkdir(exist_ok=True)
    write_checkpoint(config.CHECKPOINT, unet, train_vae.load(directory, cpu),
                     train_unet.load_text(directory, cpu, torch.float32), configuration)
    round_off(config.CHECKPOINT)
    shutil.copyfile(directory / "vision.safetensors", config.VISION_CHECKPOINT)
    round_off(config.VISION_CHECKPOINT)
    shutil.copyfile(directory / "surface_net.safetensors", config.SURFACE_NET)
    config.SURFACE_NET.chmod(config.CHECKPOINT.stat().st_mode)
    made = (config.CHECKPOINT, config.VISION_CHECKPOINT, config.SURFACE_NET)
    print(json.dumps({p.name: f"{p.stat().st_size / 1e6:.1f} MB" for p in made}))
