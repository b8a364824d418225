"""Canonical names: every tensor maps both ways, and shapes alone give back the configuration."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from model_zoo import POCKET, REDUCED_SD15, SD15, random_modules
from transformers import CLIPTextConfig, CLIPTextModel

from escdiff_core.errors import ESCDiffError
from escdiff_core.families.recognise import recognise
from escdiff_core.families.save import canonical_tensors
from escdiff_core.model.names import to_canonical, to_diffusers, unet_map, vae_map

FULL = {"unet": SD15.unet, "vae": SD15.vae, "text_encoder": SD15.towers[0].config}
CONFIGS = {"sd15": FULL, "reduced": REDUCED_SD15, "pocket": POCKET}


def meta_modules(config):
    with torch.device("meta"):
        return (
            UNet2DConditionModel.from_config(config["unet"]),
            AutoencoderKL.from_config(config["vae"]),
            CLIPTextModel(CLIPTextConfig(**config["text_encoder"])),
        )


def test_all_686_unet_tensors_of_sd15_map_both_ways():
    unet = meta_modules(FULL)[0]
    state, mapping = unet.state_dict(), unet_map(unet.config)
    assert len(state) == 686
    canonical = to_canonical(state, mapping)
    assert len(canonical) == 686
    assert set(canonical) == set(mapping.values())
    back = to_diffusers(canonical, mapping)
    assert list(back) == list(state) and all(back[n] is state[n] for n in state)
    assert mapping["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"] == (
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    )
    assert mapping["up_blocks.0.upsamplers.0.conv.bias"] == "output_blocks.2.1.conv.bias"
    assert mapping["up_blocks.1.upsamplers.0.conv.bias"] == "output_blocks.5.2.conv.bias"


@pytest.mark.parametrize("name", CONFIGS)
def test_maps_are_bijections_with_the_modules(name):
    unet, vae, _ = meta_modules(CONFIGS[name])
    for mapping, state in (
        (unet_map(unet.config), unet.state_dict()),
        (vae_map(vae.config), vae.state_dict()),
    ):
        assert set(mapping) == set(state)
        assert len(set(mapping.values())) == len(mapping)


def test_sd15_has_sixteen_cross_attentions_as_has_the_pocket():
    for config in (FULL, POCKET):
        found = {
            n.split(".transformer_blocks")[0] for n in unet_map(config["unet"]).values() if "attn2.to_k" in n
        }
        assert [sum(n.startswith(part) for n in found) for part in ("input", "middle", "output")] == [6, 1, 9]


def test_full_sd15_shapes_give_the_shipped_row():
    shapes = {n: tuple(t.shape) for n, t in canonical_tensors(*meta_modules(FULL)).items()}
    assert len(shapes) == 686 + 248 + 196
    config = recognise(shapes, {}, "full")
    assert (config.unet, config.vae, config.text_encoders) == (
        SD15.unet,
        SD15.vae,
        {"clip_l": SD15.towers[0].config},
    )
    assert (config.family, config.scheduler, config.native_size) == ("sd15", SD15.scheduler, 512)


def test_reduced_shapes_give_the_reduced_configuration():
    config = recognise(
        {n: tuple(t.shape) for n, t in canonical_tensors(*meta_modules(REDUCED_SD15)).items()}, {}, "x"
    )
    assert (config.unet, config.vae, config.text_encoders["clip_l"]) == tuple(REDUCED_SD15.values())


@pytest.mark.parametrize("mark, title", [
    ("model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale", "Flux"),
    ("model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias", "Stable Diffusion 3"),
    ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "LoRA"),
    ("down_blocks.0.resnets.0.conv1.weight", "diffusers UNet"),
    ("some.other.network.weight", "no Stable Diffusion UNet"),
])  # fmt: skip
def test_other_families_are_named(mark, title):
    with pytest.raises(ESCDiffError, match=title):
        recognise({mark: (4, 4), "model.diffusion_model.input_blocks.0.0.bias": (4,)}, {}, "file")


@pytest.mark.parametrize("name, shape, words", [
    ("model.diffusion_model.input_blocks.0.0.weight", (32, 9, 3, 3), "inpainting"),
    ("model.diffusion_model.input_blocks.1.0.in_layers.2.weight", None, "residual blocks"),
    ("first_stage_model.encoder.conv_in.weight", None, "VAE"),
    ("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight", None, "text encoder"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_in_words(name, shape, words):
    shapes = {n: tuple(t.shape) for n, t in canonical_tensors(*meta_modules(REDUCED_SD15)).items()}
    shapes.pop(name)
    shapes |= {name: shape} if shape else {}
    with pytest.raises(ESCDiffError, match=words):
        recognise(shapes, {}, "file")


def test_another_text_width_is_refused_with_those_that_are_known():
    shapes = {n: tuple(t.shape) for n, t in canonical_tensors(*meta_modules(REDUCED_SD15)).items()}
    shapes |= {
        n: (shape[0], 512)
        for n, shape in shapes.items()
        if n.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
    }
    with pytest.raises(ESCDiffError, match=r"context width 512.*SDXL \(2048\)"):
        recognise(shapes, {}, "file")


def test_unknown_tensor_is_refused():
    unet = random_modules(POCKET)[0]
    with pytest.raises(ESCDiffError, match="not of this"):
        to_canonical({"nonsense.weight": 0}, unet_map(unet.config))
