"""Pre-train the two filters on many pictures, so that a new reference's token starts close (E4T, Gal et al.
2023).

The UNet is frozen; the loss is the tuning loss with each picture's own token, seen by the blocks that will
learn, plus the square of the filter's offset. What the words of an example explain (``rest``, ``behind``) the
filter need not say.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..errors import ESCDiffError
from ..model.autoencoder import image_to_latents
from ..model.conditioning import predict
from ..model.diffusion import DiffusionModel
from ..reference import load_reference
from ..unet.blocks import find_preset
from ..unet.copy import private_copy
from ..unet.route import install
from ..unet.words import moved, starting_word
from .features import ReferenceEncoder, ReferenceFeatures, reference_features
from .filters import AttributeFilter, make_filter
from .lean import for_training
from .precision import autocast
from .recipes import Recipe
from .texts import TrainingTexts

log = logging.getLogger(__name__)
PICTURE_TYPES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
QUOTES = "\"'“”‘’«»"
# weight of the squared offset, the low end of E4T's range: the norm is kept by merge already
REGULARISER = 0.01


@dataclass(frozen=True)
class Example:
    """A picture (h, w, 3) and, for each kind of filter, the words for everything but the attribute."""

    image: np.ndarray
    rest: dict[str, str]
    behind: str


def folder_of(text: str) -> Path:
    """The folder a person means: what comes along with a pasted path, quotation marks and line ends, is left
    out."""
    return Path(text.strip(f"{QUOTES} \t\r\n"))


def examples_from_folder(directory: Path, native_size: int) -> list[Example]:
    """Every picture of a folder, without words. Raises ESCDiffError when there are fewer than two."""
    directory = folder_of(str(directory))
    if not os.path.isdir(directory):        # Path's own raises for a name that is too long
        raise ESCDiffError(
            f"‹the pictures› {str(directory)[:300]} does not exist or is no folder; give a folder of pictures"
        )
    try:
        inside = sorted(directory.iterdir())
    except OSError as error:
        raise ESCDiffError(
            f"‹the pictures› {directory} cannot be read ({error.strerror or error}); give a folder of "
            "your own"
        ) from error
    # ._a.png is no picture, but macOS's
    paths = [p for p in inside if p.suffix.lower() in PICTURE_TYPES and not p.name.startswith(".")]
    if len(paths) < 2:
        raise ESCDiffError(
            f"{directory} holds {len(paths)} pictures ({', '.join(PICTURE_TYPES)}); needed: at least "
            "2, better hundreds"
        )
    return [Example(load_reference(p, "none", native_size).image, {}, "") for p in paths]


@dataclass(frozen=True)
class Seen:
    """Examples as the model sees them: one feature vector and one latent (4, h, w) each."""

    examples: tuple[Example, ...]
    features: tuple[ReferenceFeatures, ...]
    latents: tuple[torch.Tensor, ...]


def look_at(model: DiffusionModel, examples: Sequence[Example], timestep: int,
            encoder: ReferenceEncoder | None, seed: int = 0,
            progress: Callable[[int, int], None] | None = None) -> Seen:
    """Encode the examples and read their features at ``timestep``, once for both filters."""
    features, latents = [], []
    for number, example in enumerate(examples):
        z = image_to_latents(model, example.image[None])
        features.append(reference_features(model, z, torch.from_numpy(example.image[None]), timestep, encoder,
                                           (seed + number) % 2**64))
        latents.append(z[0])
        if progress is not None:
            progress(number + 1, len(examples))
    return Seen(tuple(examples), tuple(features), tuple(latents))


def train_filter(model: DiffusionModel, seen: Seen, recipe: Recipe, steps: int, batch_size: int = 32,
                 lr: float = 1e-3, seed: int = 0, seconds: float | None = None,
                 progress: Callable[[int, int], None] | None = None) -> AttributeFilter:
    """Train the filter for ``recipe`` for ``steps`` (or ``seconds``). Pictures must share one size per
    batch."""
    kind, examples, features, latents = recipe.kind, seen.examples, seen.features, seen.latents
    groups: dict[tuple, list[int]] = {}
    for i, z in enumerate(latents):
        groups.setdefault(tuple(z.shape), []).append(i)
    sizes = list(groups.values())
    network = make_filter(model, features[0], seed).train()
    words = starting_word(model, recipe.init_word)
    blocks = find_preset(recipe.preset).blocks(kind, model.unet.state_dict())
    unet = private_copy(model.unet)
    towers, _ = for_training(unet, model.towers, model.device)
    texts = TrainingTexts(replace(model, towers=towers), blocks, recipe.word, recipe.plain_share)
    install(unet, texts.route, constant=(0,) if texts.hides and recipe.plain_share == 1 else ())
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.01)
    alphas, began = model.schedule.alphas_cumprod().to(model.device), time.monotonic()
    for step in range(steps):
        rng = np.random.default_rng((seed, 17, step))
        group = sizes[rng.choice(len(sizes), p=np.array([len(g) for g in sizes]) / len(examples))]
        chosen = rng.choice(group, batch_size)
        pooled = torch.stack([features[i].unet for i in chosen])
        clip = None if features[0].clip is None else torch.stack([features[i].clip for i in chosen])
        # (b, sum of the widths)
        seen_in_it = network(pooled, clip)
        vectors = moved(words, torch.zeros_like(seen_in_it), seen_in_it, recipe.filter_scale)
        names = [f"{recipe.token}{n}" for n in range(batch_size)]
        prompts = [
            recipe.prompt(
                rng.integers(len(recipe.templates)), name, examples[i].rest.get(kind, ""), examples[i].behind
            )
            for name, i in zip(names, chosen, strict=True)
        ]
        tokens = {
            name: {tower: rows[i : i + 1] for tower, rows in vectors.items()} for i, name in enumerate(names)
        }
        z = torch.stack([latents[i] for i in chosen])
        t = torch.from_numpy(
            (len(alphas) * (np.arange(batch_size) + rng.random(batch_size)) / batch_size).astype(np.int64)
        )
        noise = torch.from_numpy(rng.standard_normal(z.shape, dtype=np.float32)).to(z)
        alpha = alphas[t.to(z.device)].view(-1, 1, 1, 1)
        x = alpha.sqrt() * z + (1 - alpha).sqrt() * noise
        target = noise if model.schedule.prediction_type == "epsilon" else alpha.sqrt() * noise - (
            1 - alpha).sqrt() * z
        with autocast(model.device):
            told = texts(rng, prompts, tokens, t)
            error = (predict(unet, x, t.to(z.device), told).float() - target).square().mean()
        loss = error + REGULARISER * (recipe.filter_scale * seen_in_it).square().sum(1).mean()
        done = max(step / steps, (time.monotonic() - began) / seconds if seconds else 0.0)
        for pg in optimizer.param_groups:
            pg["lr"] = lr * min(1.0, (step + 1) / 50, 2 * max(1 - done, 0.0))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if progress is not None:
            progress(step + 1, steps)
        if step % 50 == 0:
            log.info("[%s filter] step %d, %.0f s, loss %.4f", kind, step,
                     time.monotonic() - began, float(error.detach()))
        if seconds is not None and time.monotonic() - began > seconds:
            break
    return network.eval()
