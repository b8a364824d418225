"""Pictures to latents and back; a card that is too small for that beside the model has it done all the same.
"""

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch

from ..errors import ESCDiffError, is_out_of_memory
from .diffusion import DiffusionModel

log = logging.getLogger(__name__)
# pixels; one picture of 512 px, for which SD 1.x's autoencoder takes 0.6 GiB
AT_ONCE = 16 * 128 * 128


def latent_factor(model: DiffusionModel) -> int:
    """How many pixels one latent cell spans, per side (8 for SD 1.x)."""
    return 2 ** (len(model.vae.config.block_out_channels) - 1)


def encoded_at_once(height: int, width: int) -> int:
    """How many pictures of so many pixels the autoencoder is given in one batch."""
    return max(1, AT_ONCE // (height * width))


@torch.no_grad()
def image_to_latents(
    model: DiffusionModel, images: np.ndarray | torch.Tensor, generator: torch.Generator | None = None,
    alone: bool = False, progress: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Encode pictures (b, h, w, 3), 0 to 1, as scaled latents, float32 (b, 4, h/8, w/8).

    The mean of the posterior, which is deterministic; a sample of it when a ``generator`` is given.
    ``alone``: where a GPU has no room for it, the rest of the model may wait in the CPU's memory meanwhile,
    because no copy shares its weights. ``progress(done)`` is called after each batch and may raise to cancel.
    """
    pixels = torch.as_tensor(images, dtype=torch.float32)
    factor = latent_factor(model)
    if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.shape[1] % factor or pixels.shape[2] % factor:
        raise ESCDiffError(
            f"pictures of shape {tuple(pixels.shape)} cannot be encoded; needed: (b, h, w, 3) with sides in "
            f"multiples of {factor}"
        )

    def encode() -> torch.Tensor:
        made: list[torch.Tensor] = []
        for part in pixels.split(encoded_at_once(*pixels.shape[1:3])):
            posterior = model.vae.encode(
                (part.permute(0, 3, 1, 2) * 2 - 1).to(model.device, model.vae.dtype)
            ).latent_dist
            made.append(posterior.mode() if generator is None else posterior.sample(generator))
            if progress is not None:
                progress(sum(map(len, made)))
        return torch.cat(made)

    latents = _or_else(model, encode, _alone(model) if alone else None)
    return latents.float() * model.vae.config.scaling_factor


@torch.no_grad()
def latents_to_images(model: DiffusionModel, latents: torch.Tensor) -> np.ndarray:
    """Decode scaled latents (b, 4, h, w) to pictures, float32 (b, 8h, 8w, 3), 0 to 1. Where a GPU has no room
    for it, in tiles that overlap, a little off in their colours."""
    unscaled = (latents / model.vae.config.scaling_factor).to(model.device, model.vae.dtype)
    at_once = encoded_at_once(*(latent_factor(model) * side for side in latents.shape[2:]))

    def decode() -> torch.Tensor:
        return torch.cat([(model.vae.decode(part).sample.float() / 2 + 0.5).clamp(0, 1).cpu()
                          for part in unscaled.split(at_once)])

    return _or_else(model, decode, _in_tiles(model, max(latents.shape[2:]))).permute(0, 2, 3, 1).numpy()


def _or_else(model: DiffusionModel, work: Callable[[], torch.Tensor],
             sparing: AbstractContextManager | None) -> torch.Tensor:
    """What ``work`` makes, within ``sparing``, if there is one, where a GPU's memory runs out without."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if sparing is None or not is_out_of_memory(error) or model.device.type == "cpu":
            raise
    torch.cuda.empty_cache()        # here what failed is gone
    with sparing:
        return work()


@contextmanager
def _alone(model: DiffusionModel) -> Iterator[None]:
    """While open, UNet and text towers are in the CPU's memory."""
    log.info("no memory for the autoencoder beside the model: the rest waits in the CPU's meanwhile")
    others = (model.unet, *(tower.encoder for tower in model.towers))
    try:
        for module in others:
            module.to("cpu")
        torch.cuda.empty_cache()
        yield
    except BaseException as error:      # what it held must be gone before the others come back
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        for module in others:
            module.to(model.device)


@contextmanager
def _in_tiles(model: DiffusionModel, side: int) -> Iterator[None]:
    """While open, the decoder takes latents of ``side`` in four parts or more."""
    log.info("no memory to decode the whole picture: decoded in tiles")
    vae = model.vae
    usual = vae.tile_latent_min_size, vae.tile_sample_min_size
    vae.tile_latent_min_size = 4 * -(-side // 8)        # of others a quarter, the overlap, is no whole number
    vae.tile_sample_min_size = vae.tile_latent_min_size * latent_factor(model)
    vae.enable_tiling()
    try:
        yield
    finally:
        vae.disable_tiling()
        vae.tile_latent_min_size, vae.tile_sample_min_size = usual
