"""Recognition of a checkpoint: its family and configuration from its tensors' shapes or its own metadata."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ESCDiffError
from ..model.infer import UNET_PREFIX, VAE_PREFIX, infer_text_encoder, infer_unet, infer_vae
from . import FAMILIES, SUPPORTED
from .family import Family, ModelConfig, Read, Shapes, widths_of

CONFIG_KEY = "escdiff.config"  # safetensors metadata key: what differs from SD 1.x, as JSON
OWN = FAMILIES["sd15"]         # the anatomy of checkpoints that carry a configuration of their own


@dataclass(frozen=True)
class Foreign:
    """A kind of file that is no checkpoint of a family, known by a piece of one of its tensor names."""

    title: str
    marks: tuple[str, ...]


FOREIGN: tuple[Foreign, ...] = (
    Foreign("a LoRA file", ("lora_unet_", "lora_te", ".lora_up.", ".lora_A.", ".lora.up.")),
    Foreign("a Stable Diffusion 3 checkpoint", ("joint_blocks.0.",)),
    Foreign("a Flux checkpoint", ("double_blocks.0.",)),
    Foreign("a ControlNet", ("control_model.", "controlnet_cond_embedding.")),
    Foreign(
        "a diffusers UNet alone (give the folder above it, which holds model_index.json)", ("down_blocks.0.",)
    ),
    Foreign("a VAE alone", ("decoder.mid.block_1.", "decoder.mid_block.")),
    Foreign("a textual-inversion embedding", ("emb_params", "clip_l")),
)
NOT_OURS = {1280: "an SDXL refiner"}       # by the width of the text states
UNET_MARK = UNET_PREFIX + "input_blocks.0.0.weight"
UNDECIDED = ("num_attention_heads",)  # guessed by the inferrers: leaves no trace in the shapes
NEEDED = f"a single-file checkpoint of {SUPPORTED}, or a diffusers folder"


def recognise(
    shapes: Shapes, metadata: Mapping[str, str], source: str, read: Read = lambda prefix: {}
) -> ModelConfig:
    """Return the configuration of the checkpoint whose tensors have ``shapes`` (original SD names).

    The file's own configuration (metadata key ``escdiff.config``) wins; without it the family is recognised
    from the shapes, also when the file has fewer levels, blocks or channels than the family's full-size
    model. ``read`` gives the few tensors whose values tell more. Raises ESCDiffError for a checkpoint of no
    family, or when metadata contradicts tensors.
    """
    names = [n for n in shapes if not n.startswith(VAE_PREFIX)]
    foreign = next((f for f in FOREIGN if any(mark in name for name in names for mark in f.marks)), None)
    if UNET_MARK not in shapes or foreign is not None:
        what = f"looks like {foreign.title}" if foreign else (
            "holds no Stable Diffusion UNet (model.diffusion_model.*)")
        raise ESCDiffError(f"{source} {what}; needed: {NEEDED}")
    unet, vae = infer_unet(shapes, source), infer_vae(shapes, source)
    own = CONFIG_KEY in metadata
    family = OWN if own else family_of(unet, source)
    texts = {
        t.name: infer_text_encoder(shapes, t.prefix_in(shapes), t.layout, source) for t in family.towers
    }
    if own:
        config = parse_config(metadata[CONFIG_KEY], source)
        _check_agreement(config.unet, unet, "unet", source)
        _check_agreement(config.vae, vae, "vae", source)
        for name, inferred in texts.items():
            _check_agreement(config.text_encoders[name], inferred, "text_encoder", source)
        return config
    return configured(family, unet, vae, texts, **family.noise(shapes, read))


def configured(family: Family, unet: Mapping[str, Any], vae: Mapping[str, Any],
               texts: Mapping[str, Mapping[str, Any]], **more) -> ModelConfig:
    """The configuration of a model of ``family`` whose shapes say ``unet``, ``vae`` and ``texts`` (by the
    tower's name)."""
    whole = {**family.unet, **unet}
    if isinstance(family.unet["attention_head_dim"], list):      # heads of 64, however many levels there are
        whole["attention_head_dim"] = widths_of(whole)
    towers = {t.name: {**t.config, **texts[t.name]} for t in family.towers}
    for row in family.towers:
        towers[row.name]["num_hidden_layers"] = row.layers(towers[row.name])
    return ModelConfig(
        **{
            "family": family.name, "unet": whole, "vae": {**family.vae, **vae}, "text_encoders": towers,
            "scheduler": family.scheduler, "native_size": family.native_size, **more
        })


def family_of(unet: Mapping[str, Any], source: str, any_context: bool = False) -> Family:
    """The family of a UNet with the configuration ``unet`` (any widths). Raises ESCDiffError for one of none.

    ``any_context``: its text states may have another width than the family's, as a smaller model's have.
    """
    context = unet.get("cross_attention_dim")
    family = next((f for f in FAMILIES.values() if f.context == context), None)
    if family is None and any_context:
        family = next((f for f in FAMILIES.values() if _alike(f, unet)), None)
    if context in NOT_OURS:
        raise ESCDiffError(f"{source} is {NOT_OURS[context]}; needed: a model of {SUPPORTED}")
    if family is None:
        known = ", ".join(f"{f.title} ({f.context})" for f in FAMILIES.values())
        raise ESCDiffError(f"{source} has text context width {context}; known model families: {known}")
    if unet.get("in_channels") != 4:
        raise ESCDiffError(
            f"{source} takes {unet.get('in_channels')} latent channels (an inpainting or editing model); "
            "needed: a text-to-image model with 4"
        )
    if strange := family.refused(unet) if _alike(family, unet) else "a mixture of two families":
        raise ESCDiffError(f"{source} is {strange}; needed: a model of {SUPPORTED}")
    return family


def _alike(family: Family, unet: Mapping[str, Any]) -> bool:
    """Has ``unet`` the family's anatomy? What says nothing of a part has none of it."""
    parts = ("use_linear_projection", "addition_embed_type", "class_embed_type")
    return all(bool(unet.get(part)) == bool(family.unet.get(part)) for part in parts)


def parse_config(text: str, source: str) -> ModelConfig:
    """Read the JSON that a checkpoint carries in its metadata. Raises ESCDiffError when it is unusable."""
    try:
        raw = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ESCDiffError(
            f"{source}: the metadata entry {CONFIG_KEY} is not readable JSON ({error})"
        ) from error
    kinds = {"unet": dict, "vae": dict, "text_encoder": dict, "scheduler": dict, "native_size": int}
    wrong = [k for k, kind in kinds.items() if not isinstance(raw, dict) or not isinstance(raw.get(k), kind)]
    if wrong or not isinstance(raw.get("tokenizer"), (dict, type(None))):
        raise ESCDiffError(
            f"{source}: the metadata entry {CONFIG_KEY} lacks or garbles "
            f"{', '.join(wrong or ['tokenizer'])}; the file was not written by this pack, or is damaged"
        )
    if not 8 <= raw["native_size"] <= 8192:
        raise ESCDiffError(
            f"{source}: the metadata says native_size {raw['native_size']}; allowed: 8 to 8192 pixels"
        )
    return ModelConfig(family=OWN.name, tokenizer=raw.get("tokenizer"), unet=raw["unet"], vae=raw["vae"],
                       text_encoders={OWN.towers[0].name: raw["text_encoder"]}, scheduler=raw["scheduler"],
                       native_size=raw["native_size"])


def _check_agreement(given: Mapping[str, Any], inferred: Mapping[str, Any], part: str, source: str) -> None:
    """The tensors are the truth: a configuration that contradicts them would build a wrong or a giant
    model."""
    for key, value in inferred.items():
        stated = given.get(key, value)
        stated = list(stated) if isinstance(stated, tuple) else stated
        if stated != value and key not in UNDECIDED:
            raise ESCDiffError(
                f"{source}: the metadata says {part}.{key} = {stated}, but the tensors say {value}; "
                "the file is damaged or was edited"
            )
