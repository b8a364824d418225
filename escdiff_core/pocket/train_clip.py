"""Stage 1: text and vision towers learn the world contrastively (CLIP, Radford et al. 2021), then stay frozen."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from safetensors.torch import save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import config
from .captions import caption
from .data import picture_file, specs, to_tensor
from .loop import Loop, MasterWeights
from .tokenizer import build_vocabulary

BATCH = 192


def build_tokenizer() -> CLIPTokenizer:
    vocabulary = build_vocabulary()
    return CLIPTokenizer(vocab=vocabulary["vocab"], merges=[tuple(m.split(" ")) for m in vocabulary["merges"]],
                         model_max_length=config.TEXT_ENCODER["max_position_embeddings"])


def build_vision() -> nn.Module:
    """OpenCLIP's own vision transformer with the pocket's configuration; (b, 3, 128, 128) to (b, 192)."""
    return _build_vision_tower(config.CONTEXT_DIM, CLIPVisionCfg(**config.VISION))


class Towers(nn.Module):
    """Both towers and the logit scale."""

    def __init__(self):
        super().__init__()
        self.text = CLIPTextModel(CLIPTextConfig(**config.TEXT_ENCODER))
        self.vision = build_vision()
        self.projection = nn.Linear(config.CONTEXT_DIM, config.CONTEXT_DIM, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32))
        self.see = torch.compile(self.vision.forward)

    def forward(self, pixels: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the contrastive loss and the share of pictures that find their own caption."""
        image = F.normalize(self.see(pixels).float(), dim=-1)                              # (b, 192)
        text = F.normalize(self.projection(self.text(input_ids=ids).pooler_output).float(), dim=-1)
        logits = self.logit_scale.float().exp().clamp(max=50) * image @ text.T             # (b, b)
        target = torch.arange(len(ids), device=ids.device)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return loss, (logits.argmax(1) == target).float().mean()


def train(directory: Path, minutes: float, device: torch.device, pictures: int, seed: int) -> None:
    """Train both towers for ``minutes`` and write ``clip.safetensors`` and ``vision.safetensors`` to ``directory``."""
    torch.manual_seed(seed)
    data, known = picture_file(directory, pictures, seed), specs(pictures, seed)
    tokenizer, towers = build_tokenizer(), Towers().to(device)
    dtype = torch.bfloat16
    towers.text.to(dtype), towers.vision.to(dtype), towers.projection.to(dtype)
    loop = Loop("clip", directory, minutes, BATCH, MasterWeights(towers, lr=1e-3, weight_decay=0.05))
    loop.resume()

    def step(index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((seed, 1, index))
        chosen = np.sort(rng.integers(0, pictures, BATCH))
        texts = [caption(known[i], rng) for i in chosen]
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        # Positions after the end are never looked at (the tower is causal), so the contrast needs only the longest caption.
        ids = ids[:, : int((ids == config.TEXT_ENCODER["eos_token_id"]).int().argmax(1).max()) + 1].to(device)
        with sdpa_kernel(SDPBackend.MATH):   # its backward is twice as fast on a CPU at these sizes
            loss, right = towers(to_tensor(data[chosen], device, dtype), ids)
            loss.backward()
        return {"loss": loss, "top1": right}

    loop.run(step)
    averaged = loop.weights.averaged()
    for part in ("text", "vision"):
        state = {k.removeprefix(part + "."): v.half().contiguous() for k, v in averaged.items()
                 if k.startswith(part + ".")}
        save_file(state, directory / f"{part}.safetensors")
