"""Model families as rows of data, and the recognition of a checkpoint from its tensor shapes or its own metadata."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ESCDiffError
from .infer import UNET_PREFIX, VAE_PREFIX, Shapes, infer_text_encoder, infer_unet, infer_vae
from .schedule import NoiseSchedule

CONFIG_KEY = "escdiff.config"  # safetensors metadata key: what differs from SD 1.x, as JSON


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build a model without asking a hub.

    ``unet``, ``vae``, ``text_encoder`` are configurations of the diffusers and transformers classes; ``tokenizer`` is
    None for SD 1.x's own vocabulary, else ``{"vocab": {token: id}, "merges": ["a b", ...]}``; ``native_size`` is the
    side in pixels that the model was trained at.
    """

    family: str
    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]
    scheduler: dict[str, Any]
    native_size: int
    tokenizer: dict[str, Any] | None = None


FAMILIES: dict[str, ModelConfig] = {
    "sd15": ModelConfig(
        family="sd15",
        unet={
            "sample_size": 64,
            "in_channels": 4,
            "out_channels": 4,
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
            "block_out_channels": [320, 640, 1280, 1280],
            "layers_per_block": 2,
            "transformer_layers_per_block": 1,
            "cross_attention_dim": 768,
            "attention_head_dim": 8,  # diffusers' historical name: this is the number of heads
            "use_linear_projection": False,
        },
        vae={
            "sample_size": 512,
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "block_out_channels": [128, 256, 512, 512],
            "layers_per_block": 2,
            "latent_channels": 4,
            "scaling_factor": 0.18215,
        },
        text_encoder={
            "vocab_size": 49408,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "max_position_embeddings": 77,
            "hidden_act": "quick_gelu",
            "bos_token_id": 49406,
            "eos_token_id": 49407,
            "pad_token_id": 49407,
            "projection_dim": 768,
        },
        scheduler=NoiseSchedule().config(),
        native_size=512,
    ),
}


@dataclass(frozen=True)
class Foreign:
    """A kind of file that is not an SD 1.x checkpoint, known by a piece of one of its tensor names."""

    title: str
    marks: tuple[str, ...]


FOREIGN: tuple[Foreign, ...] = (
    Foreign("a LoRA file", ("lora_unet_", "lora_te", ".lora_up.", ".lora_A.", ".lora.up.")),
    Foreign("an SDXL checkpoint", ("conditioner.embedders.",)),
    Foreign("a Stable Diffusion 3 checkpoint", ("joint_blocks.0.",)),
    Foreign("a Flux checkpoint", ("double_blocks.0.",)),
    Foreign("a Stable Diffusion 2 checkpoint", ("cond_stage_model.model.",)),
    Foreign("a ControlNet", ("control_model.", "controlnet_cond_embedding.")),
    Foreign("a diffusers UNet alone (give the folder above it, which holds model_index.json)", ("down_blocks.0.",)),
    Foreign("a VAE alone", ("decoder.mid.block_1.", "decoder.mid_block.")),
    Foreign("a textual-inversion embedding", ("emb_params", "clip_l")),
)
UNET_MARK = UNET_PREFIX + "input_blocks.0.0.weight"


INFERRERS = {"unet": infer_unet, "vae": infer_vae, "text_encoder": infer_text_encoder}
UNDECIDED = ("num_attention_heads",)  # guessed by the inferrers: leaves no trace in the shapes


def recognise(shapes: Shapes, metadata: Mapping[str, str], source: str) -> ModelConfig:
    """Return the configuration of the checkpoint whose tensors have ``shapes`` (original SD names).

    The file's own configuration (metadata key ``escdiff.config``) wins; without it the family is recognised from the
    shapes, also when the file has fewer levels, blocks or channels than the family's full-size model.
    Raises ESCDiffError when the file is no SD 1.x checkpoint, or when its metadata contradicts its tensors.
    """
    names = [n for n in shapes if not n.startswith(VAE_PREFIX)]
    foreign = next((f for f in FOREIGN if any(mark in name for name in names for mark in f.marks)), None)
    if UNET_MARK not in shapes or foreign is not None:
        what = f"looks like {foreign.title}" if foreign else "holds no Stable Diffusion UNet (model.diffusion_model.*)"
        raise ESCDiffError(
            f"{source} {what}; needed: a single-file Stable Diffusion 1.x checkpoint or a diffusers folder"
        )
    inferred = {part: infer(shapes, source) for part, infer in INFERRERS.items()}
    if CONFIG_KEY in metadata:
        config = parse_config(metadata[CONFIG_KEY], source)
        for part, values in inferred.items():
            _check_agreement(getattr(config, part), values, part, source)
        return config
    context = inferred["unet"]["cross_attention_dim"]
    row = next((f for f in FAMILIES.values() if f.unet["cross_attention_dim"] == context), None)
    if row is None:
        known = ", ".join(f"{f.family} ({f.unet['cross_attention_dim']})" for f in FAMILIES.values())
        raise ESCDiffError(f"{source} has text context width {context}; known model families: {known}")
    check_sd1_unet({**row.unet, **inferred["unet"]}, source)
    return ModelConfig(
        family=row.family,
        unet={**row.unet, **inferred["unet"]},
        vae={**row.vae, **inferred["vae"]},
        text_encoder={**row.text_encoder, **inferred["text_encoder"]},
        scheduler=row.scheduler,
        native_size=row.native_size,
    )


def check_sd1_unet(unet: Mapping[str, Any], source: str) -> None:
    """Raise ESCDiffError unless the UNet configuration has SD 1.x's anatomy (any widths)."""
    if unet.get("in_channels") != 4:
        raise ESCDiffError(
            f"{source} takes {unet.get('in_channels')} latent channels (an inpainting or editing model); "
            "needed: a text-to-image model with 4"
        )
    if unet.get("use_linear_projection") or unet.get("addition_embed_type") or unet.get("class_embed_type"):
        raise ESCDiffError(f"{source} is a Stable Diffusion 2 or XL model; needed: Stable Diffusion 1.x")


def parse_config(text: str, source: str) -> ModelConfig:
    """Read the JSON that a checkpoint carries in its metadata. Raises ESCDiffError when it is unusable."""
    try:
        raw = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ESCDiffError(f"{source}: the metadata entry {CONFIG_KEY} is not readable JSON ({error})") from error
    kinds = {"unet": dict, "vae": dict, "text_encoder": dict, "scheduler": dict, "native_size": int}
    wrong = [k for k, kind in kinds.items() if not isinstance(raw, dict) or not isinstance(raw.get(k), kind)]
    if wrong or not isinstance(raw.get("tokenizer"), (dict, type(None))):
        raise ESCDiffError(
            f"{source}: the metadata entry {CONFIG_KEY} lacks or garbles {', '.join(wrong or ['tokenizer'])}; "
            "the file was not written by this pack, or is damaged"
        )
    if not 8 <= raw["native_size"] <= 8192:
        raise ESCDiffError(f"{source}: the metadata says native_size {raw['native_size']}; allowed: 8 to 8192 pixels")
    return ModelConfig(
        family=str(raw.get("family", "custom")), tokenizer=raw.get("tokenizer"), **{k: raw[k] for k in kinds}
    )


def _check_agreement(given: Mapping[str, Any], inferred: Mapping[str, Any], part: str, source: str) -> None:
    """The tensors are the truth: a configuration that contradicts them would build a wrong or a giant model."""
    for key, value in inferred.items():
        stated = given.get(key, value)
        stated = list(stated) if isinstance(stated, tuple) else stated
        if stated != value and key not in UNDECIDED:
            raise ESCDiffError(
                f"{source}: the metadata says {part}.{key} = {stated}, but the tensors say {value}; "
                "the file is damaged or was edited"
            )

