"""Stage 3: the denoiser on cached latents, text tower frozen, with EMA and empty prompts for guidance."""

import os
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from . import config, train_vae
from .captions import caption
from .data import picture_file, specs, to_tensor
from .loop import Loop, MasterWeights
from .train_clip import build_tokenizer

BATCH = 64
EMPTY_PROMPTS = 0.1
SNR_CAP = 5.0      # above this SNR the picture is decided and steps count less
NOISE_CAP = 40.0   # most that a step of high noise counts
# Timesteps at these quantiles of the draws: most steps of training go where outline and pattern are decided (SNR 7 to 0.03)
TIMESTEP_QUANTILES = ((0.0, 0), (0.1, 100), (0.8, 600), (1.0, 1000))

# How often a picture is drawn, by its pattern: after 470 000 equal draws a grid was right in 6 % of the prompts that asked
# for it, rings in 9 %, solid and halved objects in 93 %
PATTERN_DRAWS = {"grid": 2.0, "ringed": 2.0, "checkered": 2.0, "zigzag": 2.0, "striped": 1.5, "solid": 0.5, "halved": 0.5}


def loss_weights(alphas: torch.Tensor, prediction_type: str) -> torch.Tensor:
    """Weight of the loss per timestep, mean 1: min-SNR (Hang et al. 2023) where little noise is left.

    Where nearly all is noise an eps loss weighs what the v loss would, up to NOISE_CAP: with almost no terminal SNR an eps
    error of 0.05 at t = 950 is an error of 11 in the picture, and plain weights leave it there.
    """
    snr = alphas / (1 - alphas)
    weight = snr.clamp(max=SNR_CAP) / snr * (1 + 1 / snr).clamp(max=NOISE_CAP) if prediction_type == "epsilon" else \
        snr.clamp(max=SNR_CAP) / snr
    return weight / weight.mean()


@torch.no_grad()
def latent_file(directory: Path, pictures: np.ndarray, device: torch.device) -> tuple[np.ndarray, float]:
    """Open, or encode first, the pictures' latent means, float16 (n, 4, 16, 16), and the factor that gives them unit std."""
    path = directory / f"latents-{len(pictures)}.npy"
    if not path.exists():
        vae = train_vae.load(directory, device).to(dtype=torch.bfloat16, memory_format=torch.channels_last)
        encode = torch.compile(lambda x: vae.encode(x).latent_dist.mean)
        latents = np.empty((len(pictures), 4, config.NATIVE_SIZE // 8, config.NATIVE_SIZE // 8), np.float16)
        for start in range(0, len(pictures), 64):
            x = to_tensor(pictures[start:start + 64], device, torch.bfloat16)
            latents[start:start + 64] = encode(x).float().cpu().numpy()
        unfinished = path.with_suffix(".tmp.npy")
        np.save(unfinished, latents)
        os.replace(unfinished, path)
    latents = np.load(path)
    return latents, float(1 / latents[:4000].astype(np.float32).std())


def load_text(directory: Path, device: torch.device, dtype: torch.dtype) -> CLIPTextModel:
    """The frozen text tower."""
    text = CLIPTextModel(CLIPTextConfig(**config.TEXT_ENCODER))
    text.load_state_dict({k: v.float() for k, v in load_file(directory / "text.safetensors").items()}, strict=True)
    return text.to(device=device, dtype=dtype).eval().requires_grad_(False)


def train(directory: Path, minutes: float, device: torch.device, pictures: int, seed: int) -> None:
    """Train the denoiser for ``minutes`` and write ``unet.safetensors`` (averaged weights) to ``directory``."""
    torch.manual_seed(seed + 2)
    data, known = picture_file(directory, pictures, seed), specs(pictures, seed)
    latents, scale = latent_file(directory, data, device)
    dtype = torch.bfloat16
    tokenizer, text = build_tokenizer(), load_text(directory, device, dtype)
    unet = UNet2DConditionModel(**config.UNET)
    start = directory / "unet.safetensors"
    if start.exists():   # weights of an earlier run whose state is gone, or unpacked from the shipped checkpoint
        unet.load_state_dict({k: v.float() for k, v in load_file(start).items()})
    unet = unet.to(device=device, memory_format=torch.channels_last).to(dtype)
    if device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())   # plain bmm attention: faster than the fused kernel at these sizes
    schedule = DDPMScheduler(**config.SCHEDULER)
    alphas = schedule.alphas_cumprod.to(device)
    weight = loss_weights(alphas, schedule.config.prediction_type)
    loop = Loop("unet", directory, minutes, BATCH, MasterWeights(unet, lr=1e-3))
    loop.resume()
    draws = np.cumsum([PATTERN_DRAWS.get(spec.pattern, 1.0) for spec in known])
    denoise = torch.compile(lambda x, t, c: unet(x, t, c, return_dict=False)[0])

    def step(index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((seed, 3, index))
        chosen = np.searchsorted(draws, rng.random(BATCH) * draws[-1], side="right")
        texts = ["" if rng.random() < EMPTY_PROMPTS else caption(known[i], rng) for i in chosen]
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)
        with torch.no_grad():
            context = text(input_ids=ids).last_hidden_state                              # (b, 77, 192)
        z = torch.from_numpy(latents[chosen]).to(device).float() * scale                 # (b, 4, 16, 16)
        # one draw from each slice of the law: same law as independent draws, less variance between batches
        t = np.interp((np.arange(BATCH) + rng.random(BATCH)) / BATCH, *zip(*TIMESTEP_QUANTILES, strict=True))
        t = torch.from_numpy(t.astype(np.int64).clip(max=999)).to(device)
        noise = torch.from_numpy(rng.standard_normal(z.shape, dtype=np.float32)).to(device)
        target = noise if schedule.config.prediction_type == "epsilon" else schedule.get_velocity(z, noise, t)
        x = schedule.add_noise(z, noise, t).to(dtype).contiguous(memory_format=torch.channels_last)
        error = (denoise(x, t, context).float() - target).square().mean((1, 2, 3))
        loss = (weight[t] * error).mean()
        loss.backward()
        return {"loss": loss, "mse": error.mean()}

    def export() -> None:
        save_file({k: v.half().contiguous() for k, v in loop.weights.averaged().items()},
                  directory / "unet.safetensors", metadata={"scaling_factor": str(scale)})

    loop.run(step, on_save=export)
    export()
