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


def load(directory: Path, device: torch.device) -> AutoencoderKL:
    """The trained autoencoder, fp32."""
    vae = AutoencoderKL(**config.VAE)
    vae.load_state_dict({k: v.float() for k, v in load_file(directory / "vae.safetensors").items()})
    return vae.to(device).eval()
