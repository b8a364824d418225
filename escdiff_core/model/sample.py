"""Text to image with diffusers' schedulers and classifier-free guidance."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

from ..errors import ESCDiffError, lookup
from .autoencoder import latent_factor, latents_to_images
from .conditioning import Conditioning, joined, predict
from .diffusion import DiffusionModel
from .schedule import NoiseSchedule
from .text import Vectors, check_prompts
from .weighted import encode_weighted

# Class and what it needs beyond the noise schedule. "trailing" starts at the last timestep, where the latent
# is pure noise (Lin et al. 2023, arXiv 2305.08891): "leading" would skip the steps that decide the background
# when the terminal SNR is nearly zero, and costs nothing with SD 1.x's own schedule.
SCHEDULERS: dict[str, tuple[type, dict[str, Any]]] = {
    "dpmpp_2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "euler": (EulerDiscreteScheduler, {}),
}

# (latents (b, 4, h, w), timestep (), what it is told of the prompts) -> the UNet's output (b, 4, h, w)
UNetCall = Callable[[torch.Tensor, torch.Tensor, Conditioning], torch.Tensor]


def make_scheduler(schedule: NoiseSchedule, name: str = "dpmpp_2m"):
    """Return a diffusers scheduler of :data:`SCHEDULERS` for the model's noise schedule; unknown names
    raise."""
    cls, extra = lookup(SCHEDULERS, name, "scheduler")
    return cls(**schedule.config(), timestep_spacing="trailing", **extra)


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn, whatever they are of.

    ``size`` is the side or (height, width) in pixels, None the model's native size; ``guidance_scale`` None
    is the model's usual one. ``start`` (1, 4, h, w), scaled latents, is where every picture begins
    (image-to-image, Meng et al. 2021): noised as far as the last ``denoise`` of the steps go, which alone are
    taken.
    """

    steps: int = 30
    guidance_scale: float | None = None
    seed: int = 0
    size: int | tuple[int, int] | None = None
    scheduler: str = "dpmpp_2m"
    batch_size: int = 8
    start: torch.Tensor | None = None
    denoise: float = 1.0

    @property
    def skipped(self) -> int:
        """How many of the steps are not taken."""
        return 0 if self.start is None else min(round(self.steps * (1 - self.denoise)), self.steps - 1)

    def of(self, model: DiffusionModel) -> "Drawing":
        """The same with the model's own guidance and the size as (height, width).

        Raises ESCDiffError for an unknown scheduler, and for sizes or counts that are impossible.
        """
        size = model.native_size if self.size is None else self.size
        height, width = (size, size) if isinstance(size, int) else size
        factor, most = latent_factor(model), model.schedule.num_train_timesteps
        lookup(SCHEDULERS, self.scheduler, "scheduler")
        if min(height, width) < factor or height % factor or width % factor:
            raise ESCDiffError(
                f"a picture of {height} x {width} pixels is impossible; sides must be multiples of {factor}"
            )
        if not 1 <= self.steps <= most or self.batch_size < 1:
            raise ESCDiffError(
                f"{self.steps} steps in batches of {self.batch_size} are impossible; allowed: 1 to {most} "
                "steps, batches of at least 1"
            )
        latent = (1, model.unet.config.in_channels, height // factor, width // factor)
        if self.start is not None and tuple(self.start.shape) != latent:
            raise ESCDiffError(
                f"the picture to start from has latents of {tuple(self.start.shape)}, the drawing of "
                f"{latent}; give a picture of the drawing's size"
            )
        if not 0 < self.denoise <= 1:
            raise ESCDiffError(
                f"a denoise of {self.denoise} makes no sense; give more than 0, up to 1 for the whole "
                "schedule"
            )
        usual = model.usual_guidance if self.guidance_scale is None else self.guidance_scale
        return replace(self, guidance_scale=usual, size=(height, width))


USUAL = Drawing()


@torch.no_grad()
def sample(
    model: DiffusionModel,
    prompts: Sequence[str],
    negative: str = "",
    how: Drawing = USUAL,
    tokens: Mapping[str, Vectors | torch.Tensor] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Draw one picture per prompt: float32 (b, h, w, 3), 0 to 1.

    ``tokens`` is handed to encode_weighted, the rest to :func:`draw`, which says what raises.
    """
    check_prompts(prompts)
    how = how.of(model)
    both = encode_weighted(model, [*prompts, negative], tokens)
    return draw(model, both[:-1], both[-1:], how, progress=progress)


@torch.no_grad()
def draw(
    model: DiffusionModel,
    positive: Conditioning,
    negatives: Conditioning | None = None,
    how: Drawing = USUAL,
    unet_call: UNetCall | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Draw one picture per row of ``positive``: float32 (b, h, w, 3), 0 to 1.

    Picture i starts from noise of seed ``how.seed + i``, drawn on the CPU, so that it depends neither on its
    batch nor on the device. ``negatives`` has 1 or b rows, and may be None for a guidance of 1. ``unet_call``
    replaces the plain UNet: it sees the batch [negatives, positives] in that order, or the positives alone
    when the guidance is 1. ``progress(done, total)`` is called after every step and may raise to cancel.
    Raises ESCDiffError where Drawing.of does, and for negatives that do not fit the positives.
    """
    how = how.of(model)
    guided = how.guidance_scale != 1.0
    if guided and (negatives is None or negatives.context.shape[1:] != positive.context.shape[1:]):
        there = "missing" if negatives is None else tuple(negatives.context.shape[1:])
        raise ESCDiffError(
            f"the negative's text states are {there}, the prompt's {tuple(positive.context.shape[1:])}; "
            "they run in one batch and must be alike"
        )
    call = unet_call or partial(predict, model.unet)
    firsts, taken = range(0, len(positive), how.batch_size), how.steps - how.skipped
    images = []
    for number, first in enumerate(firsts):
        context = part = positive[first : first + how.batch_size]
        noise = start_noise(model, range(how.seed + first, how.seed + first + len(part)), *how.size)
        if guided:
            context = joined([negatives.expand(len(positive))[first : first + how.batch_size], part])
        told = None if progress is None else _shifted(progress, number * taken, len(firsts) * taken)
        solver, timesteps, latents = _begin(model, noise, how)
        latents = _denoise(model, latents, context, how.guidance_scale, solver, timesteps, call, told)
        images.append(latents_to_images(model, latents))
    return np.concatenate(images)


def _begin(model: DiffusionModel, noise: torch.Tensor, how: Drawing):
    """A scheduler, which remembers its last steps and so is a fresh one, the timesteps it takes, and the
    latents that it takes them from."""
    solver = make_scheduler(model.schedule, how.scheduler)
    solver.set_timesteps(how.steps, device=model.device)
    timesteps = solver.timesteps[how.skipped:]
    if hasattr(solver, "set_begin_index"):      # it would look for it, and a GPU be waited for
        solver.set_begin_index(how.skipped)
    if how.start is None:
        return solver, timesteps, noise * solver.init_noise_sigma
    start = how.start.expand_as(noise).to(noise)
    return solver, timesteps, solver.add_noise(start, noise, timesteps[:1].expand(len(noise)))


def start_noise(model: DiffusionModel, seeds: Sequence[int], height: int, width: int) -> torch.Tensor:
    """Return standard normal latents, float32 (b, 4, height/8, width/8), one generator per picture.

    A seed beyond 2**64 - 1 starts again at 0.
    """
    factor = latent_factor(model)
    shape = (model.unet.config.in_channels, height // factor, width // factor)
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(s % 2**64)) for s in seeds]
    return torch.stack(noise).to(model.device)


def _denoise(model, latents, context, guidance_scale, scheduler, timesteps, call, progress) -> torch.Tensor:
    """Take the steps at ``timesteps``: latents (b, 4, h, w); context of b rows, or 2b, negatives first."""
    guided = len(context) == 2 * len(latents)
    dtype = model.unet.dtype
    context = context.to(model.device, dtype)
    for done, timestep in enumerate(timesteps, start=1):
        doubled = torch.cat([latents, latents]) if guided else latents
        output = call(scheduler.scale_model_input(doubled, timestep).to(dtype), timestep, context).float()
        if guided:
            without, with_prompt = output.chunk(2)
            output = without + guidance_scale * (with_prompt - without)
        latents = scheduler.step(output, timestep, latents).prev_sample
        if progress is not None:
            progress(done, len(timesteps))
    return latents


def _shifted(progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int, int], None]:
    return lambda done, _steps: progress(before + done, total)
