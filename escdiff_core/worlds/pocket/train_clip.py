"""Stage 1: text and vision towers learn the world contrastively (CLIP, Radford et al. 2021), then stay
frozen."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import config
from .data import FULL, SHORT, Pictures, pattern_names, picture_file, shape_names, to_tensor
from .loop import Loop, MasterWeights
from .tokenizer import build_vocabulary

BATCH = 216            # the families, the siblings, and for the rest strangers: pictures drawn at random
# groups of a batch, and pictures in each: same colours and background, captions of the full forms
FAMILIES = (6, 12)
# groups, and pictures in each: same colours and shape, another pattern each, background not named
SIBLINGS = (8, 6)
TIMES = {"cpu": 1, "cuda": 4}      # how many such batches are one step
LOGIT_SCALE = 10.0     # of the contrast; see Towers
NAMING = 0.5           # weight of the loss for naming shape and pattern


def build_tokenizer() -> CLIPTokenizer:
    vocabulary = build_vocabulary()
    return CLIPTokenizer(
        vocab=vocabulary["vocab"],
        merges=[tuple(m.split(" ")) for m in vocabulary["merges"]],
        model_max_length=config.TEXT_ENCODER["max_position_embeddings"],
    )


def build_vision() -> nn.Module:
    """OpenCLIP's own vision transformer with the pocket's configuration; (b, 3, 128, 128) to (b, 192)."""
    return _build_vision_tower(config.CONTEXT_DIM, CLIPVisionCfg(**config.VISION))


class Towers(nn.Module):
    """Both towers, and two linear heads that name a picture's shape and pattern, dropped after training.

    The text side is compared as it is, without a projection, and the scale of the contrast is held low:
    whatever tells two captions apart must then be large in the hidden states that the denoiser reads. With a
    free scale and random batches colours were enough, and another shape word moved the hidden states by 0.15
    of their length, another colour by 1.0: the denoiser learned colours first and shapes hardly at all.
    """

    def __init__(self):
        super().__init__()
        self.text = CLIPTextModel(CLIPTextConfig(**config.TEXT_ENCODER))
        self.vision = build_vision()
        self.sizes = [len(shape_names()), len(pattern_names())]
        self.heads = nn.Linear(config.CONTEXT_DIM, sum(self.sizes))

    def forward(
        self, pixels: torch.Tensor, ids: torch.Tensor, named: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return the losses and the shares that are right; ``named`` (b, 2) holds the indices of shape and
        pattern."""
        seen = self.vision(pixels)                                                           # (b, 192)
        image = F.normalize(seen.float(), dim=-1)
        text = F.normalize(self.text(input_ids=ids).pooler_output.float(), dim=-1)
        logits = LOGIT_SCALE * image @ text.T                                              # (b, b)
        target = torch.arange(len(ids), device=ids.device)
        contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        shape, pattern = self.heads(seen).float().split(self.sizes, dim=1)
        naming = F.cross_entropy(shape, named[:, 0]) + F.cross_entropy(pattern, named[:, 1])
        return {"loss": contrast + NAMING * naming, "contrast": contrast,
                "top1": (logits.argmax(1) == target).float().mean(),
                "shape": (shape.argmax(1) == named[:, 0]).float().mean(),
                "pattern": (pattern.argmax(1) == named[:, 1]).float().mean()}


def families(named: np.ndarray) -> list[np.ndarray]:
    """Places of the pictures that share background and colours: only shape and pattern tell them apart.

    ``named`` as in Pictures.
    """
    groups: dict[tuple, list[int]] = {}
    for place, row in enumerate(named.tolist()):
        groups.setdefault(tuple(row[2:]), []).append(place)
    return [np.array(group) for group in groups.values() if len(group) >= FAMILIES[1]]


def siblings(named: np.ndarray) -> list[np.ndarray]:
    """Places of the pictures of one shape in the same two colours, one for each pattern: only the pattern
    tells them apart."""
    groups: dict[tuple, dict[int, int]] = {}
    for place, (shape, pattern, *names, _background) in enumerate(named.tolist()):
        if names[1] >= 0 > names[2]:
            groups.setdefault((shape, *names), {}).setdefault(pattern, place)
    return [np.array(list(group.values())) for group in groups.values() if len(group) >= SIBLINGS[1]]


def _draw_groups(groups: list[np.ndarray], count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """``size`` different members of each of ``count`` different groups, or of all where there are fewer."""
    drawn = rng.choice(len(groups), min(count, len(groups)), replace=False) if groups else []
    return np.concatenate(
        [np.empty(0, np.int64), *(rng.choice(groups[g], size, replace=False) for g in drawn)]
    )


def train(directory: Path, minutes: float, device: torch.device, pictures: int, seed: int) -> None:
    """Train both towers for ``minutes`` and write ``clip.safetensors`` and ``vision.safetensors`` to
    ``directory``."""
    torch.manual_seed(seed)
    drawn: Pictures = picture_file(directory, pictures, seed)
    named, towers = np.asarray(drawn.named), Towers().to(device)
    same_colours, same_shape = families(named), siblings(named)
    # of an earlier run whose state is gone, or unpacked from the shipped weights
    for part in ("text", "vision"):
        if (directory / f"{part}.safetensors").exists():
            saved = load_file(directory / f"{part}.safetensors")
            getattr(towers, part).load_state_dict({k: v.float() for k, v in saved.items()})
    dtype = torch.bfloat16
    towers.to(dtype)
    times = TIMES[device.type]
    loop = Loop("clip", directory, minutes, times * BATCH, MasterWeights(towers, lr=1e-3, weight_decay=0.05))
    loop.resume()

    def step(index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((seed, 1, index))
        chosen, forms = [], []
        for _ in range(times):
            related, alike = (
                _draw_groups(same_colours, *FAMILIES, rng),
                _draw_groups(same_shape, *SIBLINGS, rng),
            )
            strangers = rng.integers(0, pictures, BATCH - len(related) - len(alike))
            chosen += [strangers, related, alike]
            forms += [
                rng.integers(SHORT + 1, drawn.tokens.shape[1], len(strangers)),
                np.full(len(related), FULL),
                np.full(len(alike), SHORT),
            ]
        chosen, forms = np.concatenate(chosen), np.concatenate(forms)
        ids = torch.from_numpy(drawn.tokens[chosen, forms].astype(np.int64)).to(device)
        kinds = torch.from_numpy(named[chosen, :2].astype(np.int64)).to(device)
        # its backward is twice as fast on a CPU at these sizes
        with sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext():
            figures = towers(to_tensor(drawn.images[chosen], device, dtype), ids, kinds)
            figures["loss"].backward()
        return figures

    loop.run(step)
    averaged = loop.weights.averaged()
    for part in ("text", "vision"):
        state = {k.removeprefix(part + "."): v.half().contiguous() for k, v in averaged.items()
                 if k.startswith(part + ".")}
        save_file(state, directory / f"{part}.safetensors")
