"""Attributes that nobody learned, in every form of delta, for the tests of files."""

from dataclasses import replace

import torch

from escdiff_core.attribute import Attribute

PIXEL = b"\x89PNG\r\n\x1a\n" + b"not a real picture, but the file only looks at the start"
ATTENTION, CONV = "input_blocks.1.1.transformer_blocks.0.attn2.to_q", "input_blocks.1.0.in_layers.2"


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


DELTAS = {
    "none": {},
    "full": {
        f"{ATTENTION}.weight": noise(8, 6),
        f"{CONV}.weight": noise(4, 3, 3, 3),
        f"{CONV}.bias": noise(4),
    },
    "lora": {
        f"{ATTENTION}.lora_up.weight": noise(8, 2),
        f"{ATTENTION}.lora_down.weight": noise(2, 6),
        f"{ATTENTION}.alpha": torch.tensor(1.1),
        f"{CONV}.lora_up.weight": noise(4, 2, 1, 1),
        f"{CONV}.lora_down.weight": noise(2, 3, 3, 3),
    },
}


def make(form="full", **changes):
    attribute = Attribute(kind="shape", token="*m", word="shape", embeddings={"clip_l": noise(
        2, 16)}, delta=DELTAS[form], blocks=("down_blocks.0", "down_blocks.1"), recipe="escdiff-shape",
                          recipe_hash="ab12", preset="paper", base_fingerprint="f" * 64, steps=100, seed=3,
                          losses={"last": 0.12345678901234567}, reference_hash="cd", thumbnail=PIXEL,
                          extra={"describe": "on a yellow table", "später": {"deep": [1, 2.5, None]}},
                          )
    return replace(attribute, **changes)
