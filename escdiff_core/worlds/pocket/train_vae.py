"""Stage 2: the autoencoder (Rombach et al. 2022) on pictures of the world, pieces of photographs, and
surfaces of any colour."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from . import config
from .data import picture_file, piece_file, to_tensor
from .group_norm import swap
from .loop import Loop, MasterWeights
from .perceptual import perceptual_loss

BATCH = {"cpu": 5, "cuda": 64}
RATE = {"cpu": 7e-4, "cuda": 1e-3}
PIECES = {"photographs": 0.25, "swatches": 0.3}      # share of a batch; the rest shows the world
PIECES_A_PICTURE = 0.3    # of each kind, drawn to disk
# an eighth of the ELBO's own weight at this compression: keeps latents smooth, costs no detail
KL_WEIGHT = 5e-5
EDGES = 0.5
NOISE = 0.05              # of a latent's standard deviation of about 3


def _losses(y: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a picture's pixels and borders say, and the mean squared error alone."""
    y, x = y.float(), x.float()
    mse = F.mse_loss(y, x)
    # keeps borders crisp without a critic
    edges = sum(F.l1_loss(y.diff(dim=d), x.diff(dim=d)) for d in (2, 3))
    return F.l1_loss(y, x) + mse + EDGES * edges, mse


def _drawer(
    directory: Path, pictures: int, seed: int, device: torch.device
) -> Callable[[np.random.Generator], torch.Tensor]:
    """A function that draws a batch of all kinds of pictures, (b, 3, 128, 128) in -1 to 1, bf16."""
    batch = BATCH[device.type]
    sources = [(piece_file(directory, kind, int(pictures * PIECES_A_PICTURE), seed), round(batch * share))
               for kind, share in PIECES.items()]
    sources.append(
        (picture_file(directory, pictures, seed).images, batch - sum(count for _, count in sources))
    )

    def draw(rng: np.random.Generator) -> torch.Tensor:
        chosen = [source[np.sort(rng.integers(0, len(source), count))] for source, count in sources]
        return to_tensor(np.concatenate(chosen), device, torch.bfloat16)

    return draw


def _fast(function: Callable, device: torch.device) -> Callable:
    """``function`` compiled for a GPU. On a CPU it stays as it is: compiling takes longer than it saves
    there."""
    return torch.compile(function) if device.type == "cuda" else function


def train(directory: Path, minutes: float, device: torch.device, pictures: int, seed: int) -> None:
    """Train the autoencoder for ``minutes`` and write ``vae.safetensors`` to ``directory``; goes on from one
    that is there."""
    torch.manual_seed(seed + 1)
    dtype, batch = torch.bfloat16, BATCH[device.type]
    vae = AutoencoderKL(**config.VAE)
    if (directory / "vae.safetensors").exists():
        vae = load(directory, torch.device("cpu"))
    else:
        with torch.no_grad():
            # log variance: latents that are not all noise
            vae.quant_conv.bias[config.VAE["latent_channels"]:] = -6.0
    vae = swap(vae.to(device=device, memory_format=torch.channels_last).to(dtype))
    likeness = perceptual_loss(device)
    loop = Loop("vae", directory, minutes, batch, MasterWeights(vae, lr=RATE[device.type], weight_decay=0.0))
    loop.resume()

    def losses(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return likeness(y, x), *_losses(y, x), kl

    judge = _fast(losses, device)

    def learn(x: torch.Tensor) -> dict[str, torch.Tensor]:
        seen, pixels, mse, kl = judge(x)
        (pixels + seen + KL_WEIGHT * kl).backward()
        return {"psnr": -10 * torch.log10(mse.detach() / 4), "perceptual": seen, "kl": kl}

    if device.type == "cuda":      # compile before the pictures are there: others may still be drawing them
        learn(torch.zeros(batch, 3, config.NATIVE_SIZE, config.NATIVE_SIZE, device=device, dtype=dtype)
              .contiguous(memory_format=torch.channels_last))
        vae.zero_grad()
    draw = _drawer(directory, pictures, seed, device)

    def step(index: int) -> dict[str, torch.Tensor]:
        return learn(draw(np.random.default_rng((seed, 2, index))))

    def export() -> None:
        save_file(
            {k: v.half().contiguous() for k, v in loop.weights.averaged().items()},
            directory / "vae.safetensors",
        )

    loop.run(step, on_save=export)
    export()


def train_decoder(directory: Path, minutes: float, device: torch.device, pictures: int, seed: int) -> None:
    """Go on with the decoder alone: sharper, and latents stay what the denoiser was trained on. Writes
    ``vae.safetensors`` anew."""
    torch.manual_seed(seed + 3)
    dtype, batch = torch.bfloat16, BATCH[device.type]
    vae = swap(load(directory, device).to(memory_format=torch.channels_last).to(dtype))
    vae.requires_grad_(False)
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(True)
    compare, draw = perceptual_loss(device), _drawer(directory, pictures, seed, device)
    loop = Loop("decoder", directory, minutes, batch, MasterWeights(vae, lr=5e-4, weight_decay=0.0))
    loop.resume()

    def step(index: int) -> dict[str, torch.Tensor]:
        x = draw(np.random.default_rng((seed, 4, index)))
        with torch.no_grad():
            z = vae.encode(x).latent_dist.mean
            # the denoiser never hits a latent exactly: a little noise teaches the decoder to forgive it
            z = (z + NOISE * torch.randn_like(z)).contiguous(memory_format=torch.channels_last)
        y = vae.decode(z).sample
        pixels, mse = _losses(y, x)
        (pixels + compare(y, x)).backward()
        return {"loss": pixels, "psnr": -10 * torch.log10(mse / 4)}

    def export() -> None:
        state = load(directory, torch.device("cpu")).state_dict()
        state.update(loop.weights.averaged())
        save_file({k: v.half().contiguous() for k, v in state.items()}, directory / "vae.safetensors")

    loop.run(step, on_save=export)
    export()


def load(directory: Path, device: torch.device) -> AutoencoderKL:
    """The trained autoencoder, fp32."""
    vae = AutoencoderKL(**config.VAE)
    vae.load_state_dict({k: v.float() for k, v in load_file(directory / "vae.safetensors").items()})
    return vae.to(device).eval()
