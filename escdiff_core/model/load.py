"""Load any SD 1.x model, single file or diffusers folder, without ever asking a hub."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..choices import USUAL_GUIDANCE
from ..errors import ESCDiffError
from ..registry import named_model, world_of
from .checkpoint import open_checkpoint
from .families import ModelConfig, recognise
from .folder import load_folder
from .infer import TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX
from .names import to_canonical, unet_map
from .schedule import NoiseSchedule
from .tokenizer import build_tokenizer, check_tokenizer

try:
    from huggingface_hub.errors import StrictDataclassError  # transformers 5: a value of the wrong type
except ImportError:  # an older hub library, whose transformers raises ValueError
    StrictDataclassError = ValueError

# What the constructors raise for a senseless configuration; RuntimeError is torch's for an impossible size.
UNBUILDABLE = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RuntimeError, StrictDataclassError)


@dataclass(frozen=True, eq=False)
class DiffusionModel:
    """A loaded model. All parts are in eval mode and frozen; ``dataclasses.replace`` makes a variant.

    ``fingerprint`` names the base UNet weights (see :func:`fingerprint`), ``native_size`` is in pixels, ``family`` is a
    row of families.FAMILIES or what the checkpoint calls itself.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    schedule: NoiseSchedule
    native_size: int
    fingerprint: str
    device: torch.device
    family: str
    source: str

    @property
    def usual_guidance(self) -> float:
        """The guidance scale to draw with where nobody asks for another."""
        world = world_of(self.source)
        return world.guidance if world else USUAL_GUIDANCE


def load_model(
    path_or_name: str | Path, device: str | torch.device = "auto", dtype: torch.dtype = torch.float32
) -> DiffusionModel:
    """Load ``"pocket"``, a single-file SD 1.x checkpoint (safetensors) or a diffusers folder onto ``device``.

    ``device``: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``. ``dtype`` is that of the UNet and the
    text encoder; the VAE stays in fp32, since it runs once per picture and its decoder can overflow in fp16. Raises
    ESCDiffError with one sentence for anything that cannot be loaded: missing, a pickle, truncated, contradictory, not
    SD 1.x.
    """
    place = resolve_device(device)
    path = named_model(str(path_or_name)) or Path(path_or_name)
    load = load_folder if path.is_dir() else _load_single_file
    unet, vae, text_encoder, tokenizer, config = load(path, dtype)
    return _finish(unet, vae, text_encoder, tokenizer, config, place, str(path))


def model_from_tensors(tensors: Mapping[str, torch.Tensor], config: ModelConfig, device: torch.device,
                       dtype: torch.dtype = torch.float32, source: str = "the model",
                       tokenizer: CLIPTokenizer | None = None) -> DiffusionModel:
    """Build a model from tensors under the names of the original SD layout, as a host exports them.

    The tensors are copied, so that the host's stay its own. ``tokenizer`` replaces the configuration's. Raises ESCDiffError
    when one is missing or has another shape than ``config`` says.
    """
    def read(prefix: str) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    modules = _assemble(read, config, dtype, source)
    tokenizer = tokenizer or _tokenizer(config, modules[2], source)
    return _finish(*modules, tokenizer, config, device, source)


def _finish(unet, vae, text_encoder, tokenizer, config: ModelConfig, place: torch.device, source: str) -> DiffusionModel:
    base = fingerprint(unet.state_dict(), unet.config)
    for module in (unet, vae, text_encoder):
        module.to(place).eval().requires_grad_(False)
    return DiffusionModel(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        schedule=NoiseSchedule.from_config(config.scheduler),
        native_size=config.native_size,
        fingerprint=base,
        device=place,
        family=config.family,
        source=source,
    )


def resolve_device(device: str | torch.device) -> torch.device:
    """Turn ``auto | cpu | cuda | cuda:N`` into a device that exists here. Raises ESCDiffError for anything else."""
    name = str(device)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if name != "cpu" and (kind != "cuda" or not (number.isdecimal() or name == "cuda")):
        raise ESCDiffError(f"unknown device {name!r}; known: auto, cpu, cuda, cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ESCDiffError(f"device {name!r} is not here ({torch.cuda.device_count()} GPUs found); use auto or cpu")
    return torch.device(name)


def fingerprint(unet_state: Mapping[str, torch.Tensor], unet_config: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of a UNet's weights: canonical names, shapes and values, in the order of the names.

    ``unet_state`` has diffusers' names. Values are hashed as fp16, so the same weights have the same fingerprint in a
    single file or a folder, stored in fp32 or rounded to fp16. A file rounded to bf16 counts as another model.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(to_canonical(unet_state, unet_map(unet_config)).items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().to("cpu", torch.float16).contiguous().numpy())
    return digest.hexdigest()


def _load_single_file(path: Path, dtype: torch.dtype):
    file, source = open_checkpoint(path), str(path)
    config = recognise(file.shapes, file.metadata, source)
    modules = _assemble(file.read, config, dtype, source)
    return *modules, _tokenizer(config, modules[2], source), config


def _assemble(read: Callable[[str], dict[str, torch.Tensor]], config: ModelConfig, dtype: torch.dtype, source: str):
    """Build the three modules and fill them with the tensors that ``read(prefix)`` gives, names of the original layout."""
    unet, vae, text_encoder = build_modules(config, source)
    inner = "text_model." if any(n.startswith("text_model.") for n in text_encoder.state_dict()) else ""

    state = convert_ldm_unet_checkpoint(read(UNET_PREFIX), dict(unet.config))
    _fill(unet, state, dtype, source)
    state = convert_ldm_vae_checkpoint(read(VAE_PREFIX), dict(vae.config))
    _fill(vae, state, torch.float32, source)
    state = convert_ldm_clip_checkpoint(read(TEXT_PREFIX))
    _fill(text_encoder, {inner + n.removeprefix("text_model."): t for n, t in state.items()}, dtype, source)
    return unet, vae, text_encoder


def _tokenizer(config: ModelConfig, text_encoder: CLIPTextModel, source: str) -> CLIPTokenizer:
    tokenizer = build_tokenizer(config.tokenizer, text_encoder.config.max_position_embeddings, source)
    check_tokenizer(tokenizer, text_encoder.config.vocab_size, source)
    return tokenizer


def build_modules(config: ModelConfig, source: str = "the model"):
    """Build (UNet2DConditionModel, AutoencoderKL, CLIPTextModel), parameters on the meta device: no memory, no time.

    Raises ESCDiffError when the configuration makes no sense to diffusers or transformers.
    """
    try:
        with init_empty_weights(include_buffers=False):
            return (
                UNet2DConditionModel.from_config(config.unet),
                AutoencoderKL.from_config(config.vae),
                CLIPTextModel(CLIPTextConfig(**config.text_encoder)),
            )
    except UNBUILDABLE as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ESCDiffError(f"{source}: no model can be built from its configuration ({reason})") from error


def _fill(module: torch.nn.Module, state: dict[str, torch.Tensor], dtype: torch.dtype, source: str) -> None:
    """Put ``state`` into a module on the meta device; every tensor must be there with its right shape."""
    expected = module.state_dict()
    kind = type(module).__name__
    missing = [n for n in expected if n not in state]
    if missing:
        raise ESCDiffError(
            f"{source} lacks {len(missing)} of {len(expected)} tensors of the {kind} (first: {missing[0]}); the file "
            "is incomplete or of another kind"
        )
    wrong = next((n for n in expected if state[n].shape != expected[n].shape), None)
    if wrong:
        raise ESCDiffError(
            f"{source}: tensor {wrong} of the {kind} has shape {tuple(state[wrong].shape)}, needed "
            f"{tuple(expected[wrong].shape)}"
        )
    # A copy, since tensors of the file's own dtype are still a window into the file.
    module.load_state_dict({n: state[n].to(dtype, copy=True) for n in expected}, assign=True)
