"""Tiny random models for the tests: two in SD 1.5's layout, one with the pocket model's anatomy."""

import string
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from host_small_work import TEXT_LAYERS
from transformers import CLIPTextConfig, CLIPTextModel

from escdiff_core.families import FAMILIES
from escdiff_core.families.save import canonical_tensors, write_checkpoint
from escdiff_core.files import write_safetensors
from escdiff_core.model.infer import UNET_PREFIX
from escdiff_core.model.text import encode_prompts
from escdiff_core.model.tokenizer import build_tokenizer
from escdiff_core.model.towers import TextTower

SD15 = FAMILIES["sd15"]

# SD 1.5 with fewer levels, blocks and channels, and no configuration in the file.
REDUCED_SD15 = {
    "unet": {
        **SD15.unet,
        "block_out_channels": [32, 64],
        "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    },
    "vae": {**SD15.vae, "block_out_channels": [32, 32, 64, 64], "layers_per_block": 1},
    "text_encoder": {**SD15.towers[0].config, "num_hidden_layers": 1, "intermediate_size": 64},
}

# SD 1.5 with fewer levels and blocks in the UNet, but as wide as ComfyUI wants it to recognise SD 1.5; of the
# text encoder's layers as many as the tested hosts have.
HOST_SD15 = {
    "unet": {**REDUCED_SD15["unet"], "block_out_channels": [320, 640]},
    "vae": SD15.vae,
    "text_encoder": {**SD15.towers[0].config, "num_hidden_layers": TEXT_LAYERS},
}
CHECKPOINT, CONTROLNET = "v1-5-pruned-emaonly-fp16.safetensors", "control_v11p_sd15_canny_fp16.safetensors"
SDXL_CHECKPOINT = "sd_xl_base_1.0.safetensors"

# The pocket model's anatomy at its real number of levels and layers, but narrow.
WORDS = ("a", "photo", "of", "red", "star", "heart", "shape", "appearance")
POCKET = {
    "unet": {
        **SD15.unet,
        "sample_size": 8,
        "block_out_channels": [32, 64, 96, 128],
        "cross_attention_dim": 48,
        "attention_head_dim": [1, 2, 3, 4],
    },
    "vae": {**SD15.vae, "sample_size": 64, "block_out_channels": [32, 32, 64, 64], "layers_per_block": 1,
            "scaling_factor": 0.7},
    "text_encoder": {
        **SD15.towers[0].config,
        "vocab_size": 128,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "bos_token_id": 126,
        "eos_token_id": 127,
        "pad_token_id": 127,
    },
    "scheduler": {"beta_start": 0.00085, "beta_end": 0.03, "beta_schedule": "scaled_linear"},
    "native_size": 64,
}


def word_tokenizer() -> dict:
    """A vocabulary of :data:`WORDS`, letters for the rest, and the merges that build each word letter by
    letter."""
    vocab = {letter: i for i, letter in enumerate(string.ascii_lowercase)}
    vocab |= {f"{letter}</w>": 26 + i for i, letter in enumerate(string.ascii_lowercase)}
    merges = []
    for word in WORDS:
        built = word[0]
        for i, letter in enumerate(word[1:], start=1):
            last = letter + ("</w>" if i == len(word) - 1 else "")
            if f"{built} {last}" not in merges:
                merges.append(f"{built} {last}")
            built += last
            vocab.setdefault(built, len(vocab))
    return {"vocab": vocab | {"<|startoftext|>": 126, "<|endoftext|>": 127}, "merges": merges}


POCKET["tokenizer"] = word_tokenizer()
# what write_checkpoint cannot read off modules
OWN = {k: POCKET[k] for k in ("scheduler", "native_size", "tokenizer")}


def random_modules(config: dict, seed: int = 0):
    """Return (unet, vae, text_encoder) with random weights for a configuration from above."""
    torch.manual_seed(seed)
    return (
        UNet2DConditionModel.from_config(config["unet"]).eval(),
        AutoencoderKL.from_config(config["vae"]).eval(),
        CLIPTextModel(CLIPTextConfig(**config["text_encoder"])).eval(),
    )


def states(model, prompts, tokens=None) -> torch.Tensor:
    """The text states alone of what prompts are encoded as, (b, 77, dim)."""
    return encode_prompts(model, prompts, tokens).context


def one_tower(text_encoder, vocabulary: dict) -> SimpleNamespace:
    """All that encoding needs of a model with one text encoder."""
    return SimpleNamespace(towers=(TextTower("clip_l", text_encoder, build_tokenizer(vocabulary)),))


def outputs(unet, vae, text_encoder):
    """What the three modules make of fixed inputs."""
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    context = torch.randn(2, 77, unet.config.cross_attention_dim, generator=generator)
    ids = torch.arange(77)[None]
    with torch.no_grad():
        return (
            unet(latents, torch.tensor(321), encoder_hidden_states=context).sample,
            vae.decode(latents).sample,
            vae.encode(torch.rand(1, 3, 32, 32, generator=generator)).latent_dist.mean,
            text_encoder(input_ids=ids).last_hidden_state,
        )


def halved(modules):
    """Round weights as the fp16 file does, in place."""
    for parameter in (p for module in modules for p in module.parameters()):
        parameter.data = parameter.data.half().float()
    return modules


def write_host_models(folder: Path) -> Path:
    """Random SD 1.5 files under the names that the workflows ask for, in ComfyUI's folders below ``folder``.

    Workflows for SDXL find a file of their checkpoint's name to be opened with, not one to be run on.
    """
    modules = random_modules(HOST_SD15)
    write_checkpoint(folder / "checkpoints" / CHECKPOINT, *modules, None)
    (folder / "checkpoints" / SDXL_CHECKPOINT).symlink_to(CHECKPOINT)
    write_safetensors(random_controlnet(modules), folder / "controlnet" / CONTROLNET)
    return folder


def random_controlnet(modules) -> dict[str, torch.Tensor]:
    """A ControlNet (Zhang et al. 2023) on the UNet's encoder, in the original layout; its zero convolutions
    are not zero."""
    generator = torch.Generator().manual_seed(7)

    def conv(out: int, into: int, size: int, name: str) -> dict[str, torch.Tensor]:
        return {
            f"{name}.weight": 0.05 * torch.randn(out, into, size, size, generator=generator),
            f"{name}.bias": torch.zeros(out),
        }

    unet = {
        n.removeprefix(UNET_PREFIX): t
        for n, t in canonical_tensors(*modules).items()
        if n.startswith(UNET_PREFIX)
    }
    tensors = {
        n: t.contiguous()
        for n, t in unet.items()
        if n.startswith(("input_blocks.", "middle_block.", "time_embed."))
    }
    widths = [16, 16, 32, 32, 96, 96, 256]
    for place, (into, out) in enumerate(zip([3, *widths], [*widths, 320], strict=True)):
        tensors |= conv(out, into, 3, f"input_hint_block.{2 * place}")
    for number, width in enumerate((320, 320, 320, 640)):      # what each input block gives
        tensors |= conv(width, width, 1, f"zero_convs.{number}.0")
    return {n: t.half() for n, t in (tensors | conv(640, 640, 1, "middle_block_out.0")).items()}
