"""The smallest model that keeps SD 1.x's anatomy (4 levels, 6 + 1 + 9 cross-attentions), and things to learn
on it."""

import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from model_zoo import POCKET, random_modules

from escdiff_core.attribute import Attribute
from escdiff_core.families.load import load_model
from escdiff_core.families.save import write_checkpoint
from escdiff_core.learning.bank import Bank
from escdiff_core.learning.recipes import Recipe, find_recipe
from escdiff_core.model.diffusion import DiffusionModel
from escdiff_core.model.names import unet_map
from escdiff_core.reference import Reference
from escdiff_core.unet.blocks import find_preset
from escdiff_core.unet.copy import tensors_of
from escdiff_core.worlds.pocket.config import TEXT_ENCODER, VOCABULARY_SIZE
from escdiff_core.worlds.pocket.tokenizer import build_vocabulary

QUICK = {"steps": 2, "batch_size": 2, "views": 2, "warmup_steps": 0, "rank": 2, "pool": 4}
WIDTH = 32
TINY = {
    **POCKET,
    "unet": {
        **POCKET["unet"],
        "block_out_channels": [WIDTH] * 4,
        "norm_num_groups": 8,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 1,
    },
    "vae": {**POCKET["vae"], "block_out_channels": [WIDTH] * 4},
    "text_encoder": {
        **POCKET["text_encoder"],
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": VOCABULARY_SIZE,
        **{f"{kind}_token_id": TEXT_ENCODER[f"{kind}_token_id"] for kind in ("bos", "eos", "pad")},
    },
}


def write_tiny(path: Path, seed: int = 0) -> Path:
    """Write the tiny model with random weights as a checkpoint; its words are the pocket model's."""
    own = {
        "scheduler": TINY["scheduler"],
        "native_size": TINY["native_size"],
        "tokenizer": build_vocabulary(),
    }
    write_checkpoint(path, *random_modules(TINY, seed), own)
    return path


def tiny_model(path: Path, seed: int = 0) -> DiffusionModel:
    """The tiny model, written and loaded through the path of every checkpoint."""
    return load_model(write_tiny(path, seed), device="cpu")


def hash_of(model: DiffusionModel) -> str:
    """A hash of every weight and of what the UNet's layers are."""
    digest = hashlib.sha256()
    for module in (model.unet, model.vae, model.text_encoder):
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.numpy().tobytes())
        digest.update(repr([(n, type(m)) for n, m in module.named_modules()]).encode())
        digest.update(repr([(n, p.requires_grad, p.grad) for n, p in module.named_parameters()]).encode())
    digest.update(repr(sorted((n, type(p).__name__) for n, p in model.unet.attn_processors.items())).encode())
    return digest.hexdigest()


@cache
def disc(size: tuple[int, int] = (64, 64), masked: bool = True, colour: float = 0.8) -> Reference:
    """A reddish disc on a pale ground."""
    y, x = np.mgrid[:size[0], :size[1]]
    mask = ((y - size[0] / 2) ** 2 + (x - size[1] / 2) ** 2 < (0.3 * min(size)) ** 2).astype(np.float32)
    image = np.where(mask[..., None] > 0, np.float32([colour, 0.2, 0.1]), np.float32([0.9, 0.9, 0.95]))
    return Reference(image.astype(np.float32), mask if masked else None)


def made_attribute(model: DiffusionModel, kind: str, preset: str = "paper", *, scale: float = 0.02,
                   seed: int = 3, lora: bool = False, **changes) -> Attribute:
    """An attribute that nobody learned: random token, and a random delta on the preset's blocks, in either
    form."""
    generator = torch.Generator().manual_seed(seed)
    names, state = unet_map(model.unet.config), model.unet.state_dict()
    blocks = find_preset(preset).blocks(kind, state)
    delta = {}
    for name in tensors_of(model.unet, blocks):
        shape = state[name].shape
        if not lora:
            delta[names[name]] = scale * torch.randn(shape, generator=generator)
        elif len(shape) > 1:
            place, tail = names[name].removesuffix(".weight"), (1,) * (len(shape) - 2)
            delta[f"{place}.lora_up.weight"] = scale * torch.randn(shape[0], 2, *tail, generator=generator)
            delta[f"{place}.lora_down.weight"] = torch.randn(2, *shape[1:], generator=generator)
            delta[f"{place}.alpha"] = torch.tensor(2.0)
    vector = torch.randn(1, WIDTH, generator=generator)
    made = Attribute(kind=kind, token={"shape": "*m", "appearance": "*a", "concept": "*c"}[kind],
                     word={"shape": "object", "appearance": "plain",
                           "concept": "object"}[kind], embeddings={"clip_l": vector}, delta=delta,
                     blocks=blocks, recipe=f"escdiff-{kind}", recipe_hash="0" * 16, preset=preset,
                     base_fingerprint=model.fingerprint, steps=1, seed=seed).quantised()
    return replace(made, **changes)


def quick(name: str, **changes) -> Recipe:
    """A recipe that takes two small steps."""
    return find_recipe(name, **{**QUICK, **changes})


def saved(attribute: Attribute, folder: Path, name: str = "a") -> bytes:
    """What the attribute is as a file."""
    attribute.save(folder / f"{name}.safetensors")
    return (folder / f"{name}.safetensors").read_bytes()


def some_bank(side: int = 80) -> Bank:
    """A ring, and surfaces and grounds of noise."""
    y, x = np.mgrid[:side, :side] - side / 2
    ring = abs(np.hypot(y, x) - side / 4) < side / 10
    noise = np.random.default_rng(1).integers(256, size=(4, side, side, 3), dtype=np.uint8)
    return Bank((("ring", ring),), (("red brick", noise[0]), ("gold", noise[1])),
                (("on a table", noise[2]), ("in snow", noise[3])))
