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
from .data import SHORT, TOKENS, picture_file, to_tensor
from .loop import Loop, MasterWeights

BATCH = {"cpu": 64, "cuda": 1024}   # below that a GPU waits for its launches
RATE = {"cpu": 1e-3, "cuda": 1.5e-3}
FULL_SHARE = 0.6   # of the prompts name every part
EMPTY_PROMPTS = 0.1
SNR_CAP = 5.0      # above this SNR the picture is decided and steps count less
NOISE_CAP = 40.0   # most that a step of high noise counts
# Timesteps at these quantiles of the draws: most steps of training go where outline and pattern are decided
# (SNR 7 to 0.03)
TIMESTEP_QUANTILES = ((0.0, 0), (0.1, 100), (0.8, 600), (1.0, 1000))

def loss_weights(alphas: torch.Tensor, prediction_type: str) -> torch.Tensor:
    """Weight of the loss per timestep, mean 1: min-SNR (Hang et al. 2023) where little noise is left.

    Where nearly all is noise an eps loss weighs what the v loss would, up to NOISE_CAP: with almost no
    terminal SNR an eps error of 0.05 at t = 950 is an error of 11 in the picture, and plain weights leave it
    there.
    """
    snr = alphas / (1 - alphas)
    weight = (
        snr.clamp(max=SNR_CAP) / snr * (1 + 1 / snr).clamp(max=NOISE_CAP)
        if prediction_type == "epsilon"
        else snr.clamp(max=SNR_CAP) / snr
    )
    return weight / weight.mean()


@torch.no_grad()
def latent_file(directory: Path, pictures: np.ndarray, device: torch.device) -> tuple[np.ndarray, float]:
    """Open, or encode first, the pictures' latent means, float16 (n, 4, 16, 16), and the factor that gives
    them unit std."""
    path = directory / f"latents-{len(pictures)}.npy"
    if not path.exists():
        vae = train_vae.load(directory, device).to(dtype=torch.bfloat16, memory_format=torch.channels_last)
        at_once = 64 if device.type == "cpu" else 512
        latents = np.empty((len(pictures), 4, config.NATIVE_SIZE // 8, config.NATIVE_SIZE // 8), np.float16)
        for start in range(0, len(pictures), at_once):
            x = to_tensor(pictures[start:start + at_once], device, torch.bfloat16)
            latents[start:start + at_once] = vae.encode(x).latent_dist.mean.float().cpu().numpy()
        unfinished = path.with_suffix(".tmp.npy")
        np.save(unfinished, latents)
        os.replace(unfinished, path)
    latents = np.load(path)
    return latents, float(1 / latents[:4000].astype(np.float32).std())


def load_text(directory: Path, device: torch.device, dtype: torch.dtype) -> CLIPTextModel:
    """The frozen text tower."""
    text = CLIPTextModel(CLIPTextConfig(**config.TEXT_ENCODER))
    text.load_state_dict(
        {k: v.float() for k, v in load_file(directory / "text.safetensors").items()}, strict=True
    )
    return text.to(device=device, dtype=dtype).eval().requires_grad_(False)


def train(directory: Path, minutes: float, device: torch.device, pictures: int, seed: int) -> None:
    """Train the denoiser for ``minutes`` and write ``unet.safetensors`` (averaged weights) to
    ``directory``."""
    torch.manual_seed(seed + 2)
    dtype, batch = torch.bfloat16, BATCH[device.type]
    text = load_text(directory, device, dtype)
    unet = UNet2DConditionModel(**config.UNET)
    start = directory / "unet.safetensors"
    # weights of an earlier run whose state is gone, or unpacked from the shipped checkpoint
    if start.exists():
        unet.load_state_dict({k: v.float() for k, v in load_file(start).items()})
    unet = unet.to(device=device, memory_format=torch.channels_last).to(dtype)
    if device.type == "cpu":
        # plain bmm attention: faster than the fused kernel at these sizes
        unet.set_attn_processor(AttnProcessor())
    schedule = DDPMScheduler(**config.SCHEDULER)
    alphas = schedule.alphas_cumprod.to(device)
    weight = loss_weights(alphas, schedule.config.prediction_type)
    loop = Loop("unet", directory, minutes, batch, MasterWeights(unet, lr=RATE[device.type]))
    loop.resume()
    denoise = torch.compile(lambda x, t, c: unet(x, t, c, return_dict=False)[0])
    if device.type == "cuda":      # compile before the pictures are there: others may still be drawing them
        side, width = config.UNET["sample_size"], config.CONTEXT_DIM
        x = torch.zeros(batch, 4, side, side, device=device, dtype=dtype).contiguous(
            memory_format=torch.channels_last
        )
        words = torch.zeros(
            batch, config.TEXT_ENCODER["max_position_embeddings"], width, device=device, dtype=dtype
        )
        denoise(x, torch.zeros(batch, device=device, dtype=torch.long), words).sum().backward()
        unet.zero_grad()
    drawn = picture_file(directory, pictures, seed)
    latents, scale = latent_file(directory, drawn.images, device)
    latents = torch.from_numpy(latents).to(device)
    # (n, forms, TOKENS)
    tokens = torch.from_numpy(np.array(drawn.tokens)).to(device)
    empty = torch.full(
        (config.TEXT_ENCODER["max_position_embeddings"],), config.TEXT_ENCODER["pad_token_id"], device=device
    )
    empty[0] = config.TEXT_ENCODER["bos_token_id"]
    quantiles = [torch.tensor(q, device=device) for q in zip(*TIMESTEP_QUANTILES, strict=True)]

    def draw_timesteps() -> torch.Tensor:
        # one draw from each slice of the law: same law as independent draws, less variance between batches
        at = (torch.arange(batch, device=device) + torch.rand(batch, device=device)) / batch
        shares, times = quantiles
        right = torch.searchsorted(shares, at).clamp(1, len(shares) - 1)
        way = (at - shares[right - 1]) / (shares[right] - shares[right - 1])
        return (times[right - 1] + way * (times[right] - times[right - 1])).long().clamp(max=999)

    def step(index: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed * 1_000_003 + 7 * index + 3)
        chosen = torch.randint(len(latents), (batch,), device=device)
        form = torch.where(torch.rand(batch, device=device) < FULL_SHARE / 2, 0,
                           torch.randint(SHORT + 1, tokens.shape[1], (batch,), device=device))
        ids = empty.repeat(batch, 1)
        ids[:, :TOKENS] = tokens[chosen, form].long()
        ids = torch.where((torch.rand(batch, 1, device=device) < EMPTY_PROMPTS), empty, ids)
        with torch.no_grad():
            context = text(input_ids=ids).last_hidden_state                              # (b, 77, 192)
        z = latents[chosen].float() * scale                                              # (b, 4, 16, 16)
        t, noise = draw_timesteps(), torch.randn_like(z)
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
