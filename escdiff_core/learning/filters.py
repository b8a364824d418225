"""Stage 2: the shape filter and the appearance filter, two networks of one architecture, and the token they
start."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import ESCDiffError
from ..files import FILTERS_KEY, metadata_of, write_safetensors
from ..model.diffusion import DiffusionModel
from .features import ReferenceFeatures


class AttributeFilter(nn.Module):
    """Keeps of the fused reference features what belongs to one attribute: (n,), (m,) to a token offset
    (dim,), that of several text towers side by side.

    Linear maps fuse UNet and CLIP features; LeakyReLU, LayerNorm, Linear follow as in E4T (Gal et al. 2023).
    The last layer starts at zero, so that an untrained filter leaves the token at its word. ``scale`` is the
    s of the run that trained it, None before.
    """

    scale: float | None = None

    def __init__(self, unet_width: int, clip_width: int, token_width: int, hidden: int = 256):
        super().__init__()
        self.widths = {
            "unet_width": unet_width, "clip_width": clip_width, "token_width": token_width, "hidden": hidden
        }
        self.from_unet = nn.Sequential(nn.LayerNorm(unet_width), nn.Linear(unet_width, hidden))
        self.from_clip = nn.Linear(clip_width, hidden, bias=False) if clip_width else None
        self.body = nn.Sequential(nn.LeakyReLU(), nn.LayerNorm(hidden), nn.Linear(hidden, hidden),
                                  nn.LeakyReLU(), nn.LayerNorm(hidden))
        self.last = nn.Linear(hidden, token_width)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, unet: torch.Tensor, clip: torch.Tensor | None) -> torch.Tensor:
        """``unet`` (…, n), ``clip`` (…, m) or None to the offset (…, dim)."""
        h = self.from_unet(unet)
        if self.from_clip is not None and clip is not None:
            # unit-norm CLS at the scale of a LayerNorm's output
            h = h + self.from_clip(clip * clip.shape[-1] ** 0.5)
        return self.last(self.body(h))


def make_filter(model: DiffusionModel, features: ReferenceFeatures, seed: int = 0) -> AttributeFilter:
    """A fresh filter for the model's token width and the features at hand, deterministic for ``seed``."""
    width = sum(tower.width for tower in model.towers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = AttributeFilter(len(features.unet), 0 if features.clip is None else len(features.clip), width)
    return made.to(model.device)


def save_filters(filters: Mapping[str, AttributeFilter], path: Path, fingerprint: str, scale: float) -> None:
    """Write the filters of both kinds to one file; widths, base model and scale s travel in the metadata."""
    metadata = {"kinds": list(filters), "base_fingerprint": fingerprint, "scale": scale,
                "widths": next(iter(filters.values())).widths}
    tensors = {f"{kind}.{name}": v.detach().cpu().half() for kind, f in filters.items()
               for name, v in f.state_dict().items()}
    write_safetensors(tensors, path, FILTERS_KEY, json.dumps(metadata))


def load_filter(path: Path, kind: str, fingerprint: str) -> AttributeFilter:
    """Read the filter of ``kind``. Raises ESCDiffError if the file is none or was made for another model."""
    if not Path(path).is_file():
        raise ESCDiffError(f"no filter file at {path}; ‹make filters›")
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get(FILTERS_KEY, "{}"))
            if kind not in metadata.get("kinds", ()):
                raise ESCDiffError(f"{path} holds no {kind} filter; ‹a filter file›")
            if metadata["base_fingerprint"] != fingerprint:
                raise ESCDiffError(
                    f"{path} was trained on another base model; train filters for this one, or go without"
                )
            network = AttributeFilter(**metadata["widths"])
            network.load_state_dict(
                {
                    n.removeprefix(f"{kind}."): file.get_tensor(n).float()
                    for n in file.keys()  # noqa: SIM118
                    if n.startswith(f"{kind}.")
                }
            )
            network.scale = float(metadata["scale"])
    except ESCDiffError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ESCDiffError(
            f"{path} is not a whole filter file ({type(error).__name__}); train it again"
        ) from error
    return network


def base_of(path: Path) -> str | None:
    """The fingerprint of the base model that the filters at ``path`` were trained on; None for a file that
    says none."""
    try:
        return json.loads(metadata_of(path).get(FILTERS_KEY, "{}")).get("base_fingerprint")
    except (ValueError, AttributeError):
        return None
