"""Stage 5: the judge's surface reader, on exact drawings, half of them passed through the autoencoder."""

import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ..worlds.pocket import shapes, train_vae
from ..worlds.pocket.data import to_tensor
from ..worlds.pocket.world import draw_spec, render
from .surface_net import SurfaceNet, features, names
from .texture import texture_of

PICTURES = 9600       # of the statistics that it learns from
CHUNK = 64
# of random numbers: apart from those of training pictures and of the judge's comparisons
STREAM = 77
BATCH = 256
RATE = 5e-3
NOISE = 0.15          # of a statistic's deviation
DROPOUT = 0.3


def _draw(seed: int, directory: Path, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of ``CHUNK`` drawings (n, FEATURES), and the places of their surfaces; every other chunk is
    decoded first."""
    torch.set_num_threads(1)
    looks, specs, places = names(), [], []
    for i in range(start, start + CHUNK):
        rng = np.random.default_rng((seed, i, STREAM))
        places.append(int(rng.integers(len(looks))))
        specs.append(draw_spec(rng, str(rng.choice(list(shapes.ALL))), looks[places[-1]]))
    drawn = [render(spec) for spec in specs]
    images = np.stack([d.image for d in drawn])
    if start // CHUNK % 2:
        vae = train_vae.load(directory, torch.device("cpu"))
        with torch.inference_mode():
            x = to_tensor((images * 255 + 0.5).astype(np.uint8), torch.device("cpu"), torch.float32)
            images = (vae.decode(vae.encode(x).latent_dist.mean).sample / 2 + 0.5).clamp(0, 1).permute(
                0, 2, 3, 1).numpy()
    found = [features(texture_of(image, d.mask > 0.5)) for image, d in zip(images, drawn, strict=True)]
    return np.stack(found), np.asarray(places)


def train(directory: Path, minutes: float, device: torch.device, pictures: int, seed: int) -> None:
    """Train the reader and write ``surface_net.safetensors`` to ``directory``; ``minutes`` bound the steps,
    not the drawing."""
    torch.manual_seed(seed + 5)
    with ProcessPoolExecutor() as pool:
        parts = list(
            pool.map(
                partial(_draw, seed + 1, directory), range(0, min(PICTURES, max(pictures, CHUNK)), CHUNK)
            )
        )
    x, places = (torch.from_numpy(np.concatenate(p)) for p in zip(*parts, strict=True))
    fit(x, places, minutes, directory)


def fit(x: torch.Tensor, places: torch.Tensor, minutes: float, directory: Path, steps: int = 4000) -> None:
    """Fit the network to features (n, FEATURES) of surfaces at ``places`` (n,) for ``steps``, or ``minutes``
    if they end first."""
    net = SurfaceNet(DROPOUT)
    net.mean, net.deviation = x.mean(0), x.std(0) + 1e-3
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    end = time.monotonic() + 60 * minutes
    for _ in range(steps):
        chosen = torch.randint(len(x), (BATCH,))
        seen = x[chosen] + NOISE * net.deviation * torch.randn(BATCH, x.shape[1])
        loss = F.cross_entropy(net(seen), places[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if time.monotonic() > end:
            break
    print(f"[reader] loss={float(loss.detach()):.3f}", flush=True)
    save_file(
        {k: v.half().contiguous() for k, v in net.state_dict().items()}, directory / "surface_net.safetensors"
    )
