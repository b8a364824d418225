"""Exports that work without this pack: LoRA, full difference, textual inversion.

The LoRA speaks the names that kohya's trainers made common (``lora_unet_`` + diffusers' module name): the
only spelling that both ``diffusers.load_lora_weights`` and ComfyUI's stock LoraLoader read, convolutions
included.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import ESCDiffError
from ..files import write_safetensors
from .file import Attribute
from .tensors import LoraFactors, differences, lora_factors, module_of

log = logging.getLogger(__name__)
METADATA_KEY = "escdiff.export"
LORA_PREFIX = "lora_unet_"
HOST_PREFIX = "diffusion_model."
DEFAULT_RANK = 32      # keeps most of a short tuning's change at a twentieth of its size
OVERSAMPLING = 16      # extra directions of the randomised SVD, so that the last kept ones are right too
POWER_ITERATIONS = 4   # of the randomised SVD; a flat spectrum needs more than the customary 2
SIDES = {".weight": ".diff", ".bias": ".diff_b"}


@dataclass(frozen=True)
class ExportReport:
    """What an export kept.

    ``error``: ‖Δ − exported Δ‖ / ‖Δ‖ (Frobenius, over all tensors), 0 to 1, the rounding to fp16 included.
    ``rank``: that of the LoRA's factors, 0 where there is none. ``dropped``: canonical names of the tensors
    that the format cannot hold; their change counts in ``error``. ``size`` in bytes.
    """

    path: Path
    size: int
    error: float = 0.0
    rank: int = 0
    dropped: tuple[str, ...] = ()


def export_lora(attribute: Attribute, path: str | Path, unet_config: Mapping[str, Any] | None = None,
                rank: int = DEFAULT_RANK) -> ExportReport:
    """Write the delta as a LoRA for ``diffusers.load_lora_weights`` and ComfyUI's LoraLoader.

    A LoRA delta of one rank and alpha is written as it is; others are padded to one rank and the scale goes
    into the factors, because diffusers loses the alphas of attention layers where they differ. A full delta
    is approximated per module by a truncated SVD of ``rank``; biases and norms have no place in a LoRA.
    ``unet_config``: the configuration (diffusers form) of the UNet it was learned on; left out,
    ``attribute.extra["unet_config"]``, or else the names of its family. Raises ESCDiffError when there is no
    delta, the names are not this UNet's, or the file cannot be written.
    """
    if attribute.form == "none":
        raise ESCDiffError("the attribute holds a token and no change of weights; ‹export the token›")
    if rank < 1:
        raise ESCDiffError(f"rank {rank} is not allowed; give a whole number of at least 1")
    attribute = attribute.quantised()
    names = _diffusers_modules(attribute, unet_config)
    if attribute.form == "lora":
        factors = lora_factors(attribute.delta)
    else:
        factors = {
            name.removesuffix(".weight"): LoraFactors(*truncated_svd(difference, rank), scale=1.0)
            for name, difference in differences(attribute.delta)
            if difference.ndim > 1 and bool(difference.any())
        }
    if not factors:
        raise ESCDiffError(
            "the attribute changed only biases and norms, which a LoRA cannot hold; ‹export all›"
        )
    factors = {module: _in_fp16(f) for module, f in _evened(factors).items()}
    error, dropped = _missed(attribute.delta, factors)
    tensors, largest = {}, 0
    for module, f in factors.items():
        key, largest = LORA_PREFIX + names[module].replace(".", "_"), f.down.shape[0]
        tensors[f"{key}.lora_up.weight"] = f.up.half()
        tensors[f"{key}.lora_down.weight"] = f.down.half()
        tensors[f"{key}.alpha"] = torch.tensor(f.scale * f.down.shape[0])
    size = write_safetensors(tensors, path, METADATA_KEY, _label(attribute, error=error))
    return ExportReport(Path(path), size, error, largest, dropped)


def export_full(attribute: Attribute, path: str | Path) -> ExportReport:
    """Write the whole difference (``.diff``, ``.diff_b``, fp16) for ComfyUI's LoraLoader; diffusers cannot
    load it."""
    if attribute.form == "none":
        raise ESCDiffError("the attribute holds a token and no change of weights; ‹export the token›")
    tensors = {}
    for name, difference in differences(attribute.quantised().delta):
        module, _, leaf = name.rpartition(".")
        tensors[HOST_PREFIX + module + SIDES["." + leaf]] = difference.half()
    return ExportReport(Path(path), write_safetensors(tensors, path, METADATA_KEY, _label(attribute)))


def export_embedding(attribute: Attribute, path: str | Path) -> ExportReport:
    """Write the token embedding for ComfyUI's ``embedding:NAME`` and ``diffusers.load_textual_inversion``.

    One text encoder gives the one key ``emb_params`` that both expect (diffusers: pass ``token=``). With two
    (SDXL) the keys are ``clip_l`` and ``clip_g``, which diffusers takes one at a time.
    """
    if not attribute.embeddings:
        raise ESCDiffError("the attribute holds no token embedding; ‹export the weights›")
    if attribute.layout != "one":
        raise ESCDiffError(
            f"the token {attribute.token!r} has a vector for each of the {attribute.layout}, an "
            "embedding file one for all; learn with a recipe of one vector, such as textual-inversion"
        )
    vectors = attribute.quantised().embeddings
    tensors = dict(vectors) if len(vectors) > 1 else {"emb_params": next(iter(vectors.values()))}
    return ExportReport(Path(path), write_safetensors(tensors, path, METADATA_KEY, _label(attribute)))


def what_is_lost(attribute: Attribute) -> str:
    """One sentence on what no file for other programs can say of ``attribute``, "" where everything goes
    along."""
    token = attribute.token
    if attribute.layout != "one":
        return (
            f"only ESCDiff can give each of the {attribute.layout} its own vector of {token}: without "
            "it the exported file draws something else; a recipe with one vector, such as "
            "escdiff-shape, goes along whole"
        )
    if attribute.embeddings and attribute.reach == "own":
        return (
            f"only ESCDiff can show {token} to the {len(attribute.blocks)} blocks alone that learned "
            "it: elsewhere every block reads it, and the exported file draws something else; recipes "
            "without -paper go along whole"
        )
    return ""


def _label(attribute: Attribute, **more: float) -> str:
    """What stands in the file's metadata; what is lost is logged as well."""
    told = {
        "kind": attribute.kind, "token": attribute.token, "recipe": attribute.recipe,
        "preset": attribute.preset, "base_fingerprint": attribute.base_fingerprint, **more
    }
    if lost := what_is_lost(attribute):
        log.warning(lost)
        told["lost"] = lost
    return json.dumps(told, sort_keys=True)


def _diffusers_modules(attribute: Attribute, unet_config: Mapping[str, Any] | None) -> dict[str, str]:
    """Return {canonical module: diffusers module} of the UNet, and check that the delta's modules are among
    them."""
    from ..families import FAMILIES, usual_names  # brings diffusers, which the other exports do without
    from ..model.names import unet_map

    family, config = str(attribute.extra.get("family")), unet_config or attribute.extra.get("unet_config")
    known = unet_map(config) if config else usual_names(family if family in FAMILIES else "sd15")
    names = {c.rpartition(".")[0]: d.rpartition(".")[0] for d, c in known.items()}
    strange = next((m for m in map(module_of, attribute.delta) if m not in names), None)
    if strange is not None:
        raise ESCDiffError(
            f"the attribute changes {strange!r}, which the UNet of the given configuration does not "
            "have; it belongs to a model of another kind: ‹export all›"
        )
    return names


def _evened(factors: Mapping[str, LoraFactors]) -> dict[str, LoraFactors]:
    """Return factors of one rank and one scale: zeros fill the smaller ranks, ``up`` takes in scales that
    differ."""
    rank = max(f.down.shape[0] for f in factors.values())
    if len({(f.down.shape[0], f.scale) for f in factors.values()}) == 1:
        return dict(factors)
    result = {}
    for module, f in factors.items():
        up = f.up.new_zeros(len(f.up), rank, *f.up.shape[2:])
        down = f.down.new_zeros(rank, *f.down.shape[1:])
        up[:, : f.up.shape[1]], down[: len(f.down)] = f.up * f.scale, f.down
        result[module] = LoraFactors(up, down, scale=1.0)
    return result


def _in_fp16(factors: LoraFactors) -> LoraFactors:
    return LoraFactors(factors.up.half().float(), factors.down.half().float(), factors.scale)


def _missed(
    delta: Mapping[str, torch.Tensor], factors: Mapping[str, LoraFactors]
) -> tuple[float, tuple[str, ...]]:
    """Return the relative Frobenius error of ``factors`` as a stand-in for ``delta``, and the names it leaves
    out."""
    missed, total, dropped = 0.0, 0.0, []
    for name, difference in differences(delta):
        energy = float(difference.square().sum(dtype=torch.float64))
        total += energy
        module = name.removesuffix(".weight")
        if module in factors:
            energy = float((difference - factors[module].difference()).square().sum(dtype=torch.float64))
        elif energy:
            dropped.append(name)
        missed += energy
    return (missed / total) ** 0.5 if total else 0.0, tuple(dropped)


def truncated_svd(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Approximate a weight (out, in[, kh, kw]) by ``up`` (out, r[, 1, 1]) times ``down`` (r, in[, kh, kw]).

    The best r-rank approximation in the Frobenius norm (Eckart-Young), found by a randomised SVD (Halko,
    Martinsson, Tropp 2011) that is exact where r + oversampling covers the smaller side. Both factors carry
    the root of the singular values, so that neither leaves the range of fp16. Deterministic, and the global
    generator is left alone.
    """
    matrix = weight.flatten(1)
    rank = min(rank, *matrix.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        u, s, v = torch.svd_lowrank(matrix, min(rank + OVERSAMPLING, *matrix.shape), niter=POWER_ITERATIONS)
    root = s[:rank].sqrt()
    up, down = u[:, :rank] * root, (v[:, :rank] * root).T
    return up.reshape(len(weight), rank, *(1,) * (weight.ndim - 2)), down.reshape(rank, *weight.shape[1:])
