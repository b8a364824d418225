"""Stage 2: the autoencoder (Rombach et al. 2022) on the world's pictures."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from . import config
from .data import picture_file, to_tensor
from .loop import Loop, MasterWeights
from .world import SIZE

BATCH = 16
CROP = 64          # pixels: the network is convolutional, and four small steps teach more than one large one
DECODER_BATCH = 8
NOISE = 0.05       # of a latent's standard deviation of about 3
KL_WEIGHT = 5e-5   # an eighth of the ELBO's own weight at this compression: keeps latents smooth, costs no detail


def train(directory: Path, minutes: float, device: torch.device, pictures: int, seed: int) -> None:
    """Train the autoencoder for ``minutes`` and write ``vae.safetensors`` to ``directory``."""
    torch.manual_seed(seed + 1)
    data = picture_file(directory, pictures, seed)
    dtype = torch.bfloat16
    vae = AutoencoderKL(**config.VAE).to(device=device, memory_format=torch.channels_last).to(dtype)
    with torch.no_grad():
        vae.quant_conv.bias[config.VAE["latent_channels"]:] = -6.0   # log variance: start with latents that are not all noise
    loop = Loop("vae", directory, minutes, BATCH, MasterWeights(vae, lr=1e-3, weight_decay=0.0))
    loop.resume()

    def losses(x: torch.Tensor, edge_weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample.float()
        x = x.float()
        pixels = F.l1_loss(y, x)
        edges = sum(F.l1_loss(y.diff(dim=d), x.diff(dim=d)) for d in (2, 3))   # keeps borders crisp without a critic
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        mse = F.mse_loss(y, x)
        return pixels + mse + edge_weight * edges + KL_WEIGHT * kl, mse, kl

    compiled = torch.compile(losses)

    def step(index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((seed, 2, index))
        corners = rng.integers(0, SIZE - CROP + 1, (BATCH, 2))
        crops = [data[i, y:y + CROP, x:x + CROP] for i, (y, x) in zip(rng.integers(0, pictures, BATCH), corners, strict=True)]
        x = to_tensor(np.stack(crops), device, dtype)
        loss, mse, kl = compiled(x, torch.tensor(loop.progress))   # colours first, borders as they settle
        loss.backward()
        return {"loss": loss, "psnr": -10 * torch.log10(mse / 4), "kl": kl}

    loop.run(step)
    save_file({k: v.half().contiguous() for k, v in loop.weights.averaged().items()}, directory / "vae.safetensors")


def train_decoder(directory: Path, minutes: float, device: torch.device, pictures: int, seed: int) -> None:
    """Go on with the decoder alone, on whole pictures: sharper, right at the borders, and the latents stay what they were.

    Reads the latents that the denoiser was trained on and writes ``vae.safetensors`` anew.
    """
    from .train_unet import latent_file

    torch.manual_seed(seed + 3)
    data = picture_file(directory, pictures, seed)
    latents, _ = latent_file(directory, data, device)
    dtype = torch.bfloat16
    vae = load(directory, device).to(memory_format=torch.channels_last).to(dtype)
    vae.requires_grad_(False)
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(True)
    loop = Loop("decoder", directory, minutes, DECODER_BATCH, MasterWeights(vae, lr=5e-4, weight_decay=0.0))
    loop.resume()

    def losses(z: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = vae.decode(z).sample.float()
        x = x.float()
        edges = sum(F.l1_loss(y.diff(dim=d), x.diff(dim=d)) for d in (2, 3))
        mse = F.mse_loss(y, x)
        return F.l1_loss(y, x) + 2 * mse + 0.5 * edges, mse

    compiled = torch.compile(losses)

    def step(index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((seed, 4, index))
        chosen = np.sort(rng.integers(0, pictures, DECODER_BATCH))
        z = torch.from_numpy(latents[chosen]).to(device, dtype)
        # the denoiser never hits a latent exactly: a little noise teaches the decoder to forgive it
        z = (z + NOISE * torch.randn_like(z)).contiguous(memory_format=torch.channels_last)
        loss, mse = compiled(z, to_tensor(data[chosen], device, dtype))
        loss.backward()
        return {"loss": loss, "psnr": -10 * torch.log10(mse / 4)}

    loop.run(step)
    state = load(directory, torch.device("cpu")).state_dict()
    state.update(loop.weights.averaged())
    save_file({k: v.half().contiguous() for k, v in state.items()}, directory / "vae.safetensors")


def load(directory: Path, device: torch.device) -> AutoencoderKL:
    """The trained autoencoder, fp32."""
    vae = AutoencoderKL(**config.VAE)
    vae.load_state_dict({k: v.float() for k, v in load_file(directory / "vae.safetensors").items()})
    return vae.to(device).eval()
