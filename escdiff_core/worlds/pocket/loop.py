"""What the three training stages share: fp32 master weights with EMA, and a loop bounded by minutes that can
resume."""

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from .muon import Muon

SYNCHRONISE = 8       # steps
LONGEST_STEP = 120.0   # seconds that one step may count; the first ones compile


class MasterWeights:
    """Fp32 copies of a module's weights (which may be bf16), their optimisers, and an exponential moving
    average.

    Matrices and convolutions (as matrices, one row per output channel) go to Muon (Jordan et al. 2024), the
    rest to AdamW: 150 steps of the denoiser from the same weights left a loss of 0.2199 with Muon at ``2 *
    lr`` and 0.2245 with AdamW at ``lr`` alone; a step takes 1.23 s instead of 0.99 s at a batch of 64, so the
    batch is larger.
    """

    MUON_RATE = 2.0   # of ``lr``, with updates scaled to AdamW's size

    def __init__(self, module: nn.Module, lr: float, weight_decay: float = 0.01, ema_decay: float = 0.999):
        self.ema_decay, self.updates = ema_decay, 0
        self.names, self.weights = zip(
            *((n, p) for n, p in module.named_parameters() if p.requires_grad), strict=True
        )
        masters = [p.detach().float().clone(memory_format=torch.contiguous_format) for p in self.weights]
        self.matrix = [p.ndim >= 2 and not re.search(r"conv_in|conv_out|embedding", n)
                       for n, p in zip(self.names, self.weights, strict=True)]
        self.masters = [m.view(len(m), -1) if k else m for m, k in zip(masters, self.matrix, strict=True)]
        self.average = [m.clone() for m in self.masters]
        matrices = [m for m, k in zip(self.masters, self.matrix, strict=True) if k]
        others = [m for m, k in zip(self.masters, self.matrix, strict=True) if not k]
        # beta2 0.98 forgets early gradients fast enough for runs of a few thousand steps
        self.optimizers = [
            Muon(matrices, lr=self.MUON_RATE * lr, weight_decay=weight_decay),
            torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True)]
        self.rates = [[group["lr"] for group in o.param_groups] for o in self.optimizers]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Take one optimiser step at ``rate`` times the learning rate and copy the result into the module."""
        for master, weight in zip(self.masters, self.weights, strict=True):
            master.grad = weight.grad.float().contiguous().view(master.shape)
            weight.grad = None
        nn.utils.clip_grad_norm_(self.masters, 1.0)
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, full in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = full * rate
            optimizer.step()
        for weight, master in zip(self.weights, self.masters, strict=True):
            weight.copy_(master.view(weight.shape))
        self.updates += 1
        decay = min(self.ema_decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.average, self.masters, 1 - decay)

    def averaged(self) -> dict[str, torch.Tensor]:
        """The averaged weights by parameter name, fp32 on the CPU."""
        return {n: a.detach().cpu().clone().view(w.shape)
                for n, a, w in zip(self.names, self.average, self.weights, strict=True)}

    def state_dict(self) -> dict:
        return {"masters": self.masters, "average": self.average, "updates": self.updates,
                "optimizers": [o.state_dict() for o in self.optimizers]}

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        torch._foreach_copy_(self.masters, [m.to(self.masters[0].device) for m in state["masters"]])
        torch._foreach_copy_(self.average, [a.to(self.masters[0].device) for a in state["average"]])
        for weight, master in zip(self.weights, self.masters, strict=True):
            weight.copy_(master.view(weight.shape))
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.updates = state["updates"]


@dataclass
class Loop:
    """Run ``step(rng_step) -> {name: figure}`` until ``minutes`` are used up, resuming from ``directory`` if
    it can."""

    name: str
    directory: Path
    minutes: float
    batch_size: int
    weights: MasterWeights
    warmup_steps: int = 100
    save_every: float = 240.0          # seconds
    steps: int = 0
    seconds: float = 0.0
    log: list[dict] = field(default_factory=list)

    @property
    def state_path(self) -> Path:
        return self.directory / f"{self.name}.state.pt"

    @property
    def progress(self) -> float:
        return min(1.0, self.seconds / (60 * self.minutes))

    @property
    def rate(self) -> float:
        """Warm up, hold, and fall linearly to zero over the last half of the time."""
        return min(1.0, (self.steps + 1) / self.warmup_steps) * min(1.0, 2 * (1 - self.progress))

    def resume(self) -> bool:
        """Continue from a saved state; time already spent counts towards ``minutes``."""
        if not self.state_path.exists():
            return False
        state = torch.load(self.state_path, map_location="cpu", weights_only=True)
        self.weights.load_state_dict(state["weights"])
        self.steps, self.seconds, self.log = state["steps"], state["seconds"], state["log"]
        print(
            f"[{self.name}] resumes at step {self.steps}, {self.seconds / 60:.1f} of {self.minutes:g} "
            "minutes",
            flush=True,
        )
        return True

    def save(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        unfinished = self.state_path.with_suffix(".tmp")
        torch.save({"weights": self.weights.state_dict(), "steps": self.steps, "seconds": self.seconds,
                    "log": self.log}, unfinished)
        os.replace(unfinished, self.state_path)
        (self.directory / f"{self.name}.log.json").write_text(json.dumps(self.log, indent=0))

    def run(self, step: Callable[[int], dict[str, torch.Tensor]], on_save: Callable[[], None] | None = None,
            log_every: int = 50) -> None:
        """Train. ``step`` leaves gradients on the weights and returns the figures to log as tensors."""
        sums: dict[str, float] = {}
        count = 0
        last_time, last_save, since = time.monotonic(), self.seconds, self.seconds
        while self.progress < 1:
            figures = step(self.steps)
            self.weights.step(self.rate)
            self.steps += 1
            count += 1
            if self.steps % SYNCHRONISE == 0 and torch.cuda.is_available():
                # a GPU runs behind: time must not run out with steps still waiting
                torch.cuda.synchronize()
            now = time.monotonic()
            # a process that was paused (SIGSTOP, a sleeping laptop) does not lose its training time
            self.seconds, last_time = self.seconds + min(now - last_time, LONGEST_STEP), now
            for name, value in figures.items():      # no float() here: a GPU need not wait for every step
                sums[name] = sums.get(name, 0.0) + value.detach().float()
            if self.steps % log_every == 0 or self.progress >= 1:
                row = {
                    "step": self.steps,
                    "minutes": round(self.seconds / 60, 2),
                    "samples_per_second": round(count * self.batch_size / (self.seconds - since + 1e-9), 1),
                    **{k: round(float(v) / count, 5) for k, v in sums.items()},
                }
                self.log.append(row)
                print(f"[{self.name}]", " ".join(f"{k}={v}" for k, v in row.items()), flush=True)
                sums, since, count = {}, self.seconds, 0
            if self.seconds - last_save > self.save_every:
                self.save()
                last_save, last_time = self.seconds, time.monotonic()
                if on_save:
                    on_save()
                    last_time = time.monotonic()
        self.save()
