"""Load a model of any family, single file or diffusers folder, without ever asking a hub."""

from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ..errors import ESCDiffError
from ..model.checkpoint import CheckpointFile, open_checkpoint
from ..model.clip_names import from_open_clip, nested
from ..model.diffusion import DiffusionModel, fingerprint, resolve_device
from ..model.infer import UNET_PREFIX, VAE_PREFIX
from ..model.names import unet_map, vae_map
from ..model.schedule import NoiseSchedule
from ..model.tokenizer import build_tokenizer, check_tokenizer
from ..model.towers import TextTower
from ..registry import named_model
from . import FAMILIES
from .family import ModelConfig, TowerRow
from .folder import load_folder
from .recognise import recognise

try:
    from huggingface_hub.errors import StrictDataclassError  # transformers 5: a value of the wrong type
except ImportError:  # an older hub library, whose transformers raises ValueError
    StrictDataclassError = ValueError

# What the constructors raise for a senseless configuration; RuntimeError is torch's for an impossible size.
UNBUILDABLE = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RuntimeError,
               StrictDataclassError)
Tensors = Mapping[str, torch.Tensor]


def load_model(
    path_or_name: str | Path, device: str | torch.device = "auto", dtype: torch.dtype = torch.float32
) -> DiffusionModel:
    """Load ``"pocket"``, a single-file checkpoint (safetensors) of a family or a diffusers folder onto
    ``device``.

    ``device``: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``. ``dtype`` is that of the
    UNet and the text encoders; the VAE stays in fp32, since it runs once per picture and its decoder can
    overflow in fp16. Raises ESCDiffError with one sentence for anything that cannot be loaded: missing, a
    pickle, truncated, contradictory, of no family.
    """
    place = resolve_device(device)
    path = named_model(str(path_or_name)) or Path(path_or_name)
    source = str(path)
    if path.is_dir():
        unet, vae, towers, config = load_folder(path, dtype)
        return _finish(unet, vae, towers, config, place, source)
    file = open_checkpoint(path)
    config = recognise(file.shapes, file.metadata, source, file.read)
    texts = {row.name: _text_state(file, row) for row in FAMILIES[config.family].towers}
    return _finish(
        *_assemble(_under(file, UNET_PREFIX), _under(file, VAE_PREFIX), texts, config, dtype, source), config,
        place, source)


def model_from_tensors(unet: Tensors, vae: Tensors, texts: Mapping[str, Tensors], config: ModelConfig,
                       device: torch.device, dtype: torch.dtype = torch.float32,
                       source: str = "the model", base: str = "") -> DiffusionModel:
    """Build a model from tensors as a host exports them: ``unet`` and ``vae`` under the names of the original
    SD layout, the ``texts`` of each tower under transformers'.

    Tensors of ``dtype`` become the model's own, so they must be nobody else's. ``base``: the fingerprint of
    what attributes of the model belong to, if it is known; read off the UNet otherwise. Raises ESCDiffError
    when a tensor is missing or has another shape than ``config`` says.
    """
    parts = _assemble(unet, vae, texts, config, dtype, source, copy=False)
    return _finish(*parts, config, device, source, base)


def _under(file: CheckpointFile, prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in file.read(prefix).items()}


def _text_state(file: CheckpointFile, row: TowerRow) -> dict[str, torch.Tensor]:
    state = _under(file, row.prefix_in(file.shapes))
    return from_open_clip(state) if row.layout == "open_clip" else nested(state)


def _finish(unet, vae, towers: tuple[TextTower, ...], config: ModelConfig, place: torch.device, source: str,
            base: str = "") -> DiffusionModel:
    base = base or fingerprint(unet.state_dict(), unet.config)
    for module in (unet, vae, *(tower.encoder for tower in towers)):
        module.to(place).eval().requires_grad_(False)
    return DiffusionModel(
        unet=unet,
        vae=vae,
        towers=towers,
        schedule=NoiseSchedule.from_config(dict(config.scheduler)),
        native_size=config.native_size,
        fingerprint=base,
        device=place,
        family=config.family,
        source=source,
    )


def _assemble(unet_state: Tensors, vae_state: Tensors, texts: Mapping[str, Tensors], config: ModelConfig,
              dtype: torch.dtype, source: str, copy: bool = True):
    """Build UNet, VAE and towers and fill them with tensors of the original layout's names; texts have
    transformers'. ``copy``: tensors of ``dtype`` are copied too, since those of a file are a window into it.
    """
    unet, vae, encoders = build_modules(config, source)
    _fill(unet, {n: unet_state[c]
                 for n, c in unet_map(unet.config).items()
                 if c in unet_state}, dtype, source, copy)
    expected = vae.state_dict()
    vae_tensors = {n: vae_state[c] for n, c in vae_map(vae.config).items() if c in vae_state}
    # the original's attention is made of 1x1 convolutions
    vae_tensors = {
        n: t.flatten(1) if n in expected and t.ndim > expected[n].ndim else t for n, t in vae_tensors.items()
    }
    _fill(vae, vae_tensors, torch.float32, source, copy)
    towers = []
    for row in FAMILIES[config.family].towers:
        encoder, state = encoders[row.name], nested(texts.get(row.name, {}))
        names = {name: name if name in state else f"text_model.{name}" for name in encoder.state_dict()}
        _fill(encoder, {n: state[c] for n, c in names.items() if c in state}, dtype, source, copy)
        words = build_tokenizer(config.tokenizer, encoder.config.max_position_embeddings, source, row.padding)
        check_tokenizer(words, encoder.config.vocab_size, source)
        towers.append(
            TextTower(row.name, encoder, words, config.reads.get(row.name, row.hidden_state), row.pooled)
        )
    return unet, vae, tuple(towers)


def build_modules(config: ModelConfig, source: str = "the model"):
    """Build (UNet2DConditionModel, AutoencoderKL, {tower: CLIPTextModel}), parameters on the meta device: no
    memory, no time.

    Raises ESCDiffError when the configuration makes no sense to diffusers or transformers.
    """
    rows = FAMILIES[config.family].towers
    try:
        with init_empty_weights(include_buffers=False):
            return (
                UNet2DConditionModel.from_config(dict(config.unet)),
                AutoencoderKL.from_config(dict(config.vae)),
                {row.name: (CLIPTextModelWithProjection if row.pooled else CLIPTextModel)(
                    CLIPTextConfig(**config.text_encoders[row.name])) for row in rows},
            )
    except UNBUILDABLE as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ESCDiffError(f"{source}: no model can be built from its configuration ({reason})") from error


def _fill(
    module: torch.nn.Module, state: dict[str, torch.Tensor], dtype: torch.dtype, source: str, copy: bool
) -> None:
    """Put ``state`` into a module on the meta device; every tensor must be there with its right shape."""
    expected = module.state_dict()
    kind = type(module).__name__
    missing = [n for n in expected if n not in state]
    if missing:
        raise ESCDiffError(
            f"{source} lacks {len(missing)} of {len(expected)} tensors of the {kind} (first: "
            f"{missing[0]}); the file is incomplete or of another kind"
        )
    wrong = next((n for n in expected if state[n].shape != expected[n].shape), None)
    if wrong:
        raise ESCDiffError(
            f"{source}: tensor {wrong} of the {kind} has shape {tuple(state[wrong].shape)}, needed "
            f"{tuple(expected[wrong].shape)}"
        )
    module.load_state_dict({n: state[n].to(dtype, copy=copy).contiguous() for n in expected}, assign=True)
