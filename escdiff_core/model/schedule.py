"""The noise schedule of a checkpoint as data; the numbers themselves come from diffusers."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from diffusers import DDPMScheduler

from ..errors import ESCDiffError

BETA_SCHEDULES = ("scaled_linear", "linear")
PREDICTION_TYPES = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class NoiseSchedule:
    """How noise grows with the timestep. Defaults are Stable Diffusion 1.x's (Rombach et al. 2022).

    The pocket model ends at ``beta_end`` 0.03 instead: its terminal alpha-bar is then nearly zero, so that
    the prompt and not the mean of the start noise decides the background (Lin et al. 2023, arXiv 2305.08891).
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: str = "epsilon"

    def __post_init__(self):
        for value, known, what in (
            (self.beta_schedule, BETA_SCHEDULES, "beta_schedule"),
            (self.prediction_type, PREDICTION_TYPES, "prediction_type"),
        ):
            if value not in known:
                raise ESCDiffError(f"the noise schedule's {what} is {value!r}; known: {', '.join(known)}")
        numbers = (self.num_train_timesteps, self.beta_start, self.beta_end)
        if not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers) or not (
            1 < self.num_train_timesteps <= 100_000 and 0 < self.beta_start <= self.beta_end < 1
        ):
            raise ESCDiffError(
                f"the noise schedule {self.config()} makes no sense; needed: 2 to 100000 timesteps and "
                "0 < beta_start <= beta_end < 1"
            )

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "NoiseSchedule":
        """Build from a diffusers scheduler configuration; keys that say how to *sample* are ignored.

        Raises ESCDiffError for a schedule that these fields cannot express.
        """
        if config.get("rescale_betas_zero_snr") or config.get("trained_betas") is not None:
            raise ESCDiffError(
                "the scheduler configuration has trained_betas or rescale_betas_zero_snr, which is "
                "not supported; give a model with a plain linear or scaled_linear schedule"
            )
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in config.items() if k in known})

    def config(self) -> dict[str, Any]:
        """The fields as keyword arguments that every diffusers scheduler takes."""
        return asdict(self)

    def alphas_cumprod(self) -> torch.Tensor:
        """Return alpha-bar per timestep, float32 (num_train_timesteps,): ``x_t = sqrt(ab) x_0 + sqrt(1 - ab)
        eps``."""
        return DDPMScheduler(**self.config()).alphas_cumprod
