"""The host's own sampling, called from a node."""

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview


def samplers() -> list[str]:
    return list(comfy.samplers.KSampler.SAMPLERS)


def schedulers() -> list[str]:
    return list(comfy.samplers.KSampler.SCHEDULERS)


def sample(model, seed, steps, cfg, sampler, scheduler, positive, negative, latent, denoise) -> dict:
    """What the stock KSampler gives for the same inputs: a latent."""
    start = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    noise = comfy.sample.prepare_noise(start, seed, latent.get("batch_index"))
    drawn = comfy.sample.sample(model, noise, steps, cfg, sampler, scheduler, positive, negative, start,
                                denoise=denoise, noise_mask=latent.get("noise_mask"),
                                callback=latent_preview.prepare_callback(model, steps),
                                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=seed)
    return {**latent, "samples": drawn}
