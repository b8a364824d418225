"""The families at full size, on the meta device: every tensor has its two names and its one block, and shapes
say it all."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from family_zoo import UNETS, full_config, full_size, random_checkpoint
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from escdiff_core.errors import ESCDiffError
from escdiff_core.families import FAMILIES
from escdiff_core.families.load import build_modules, load_model
from escdiff_core.families.recognise import recognise
from escdiff_core.model.clip_names import from_open_clip, nested, to_open_clip
from escdiff_core.model.infer import UNET_PREFIX
from escdiff_core.model.names import to_canonical, to_diffusers, unet_map, vae_map
from escdiff_core.unet.blocks import PRESETS, block_of, find_preset

MILLIONS = {
    "sd15": 859.5, "sd2": 865.9, "sdxl": 2567.5, "Segmind Vega": 745.0, "SSD-1B": 1331.3, "KOALA-700M": 782.8,
    "KOALA-1B": 1161.1
}


@pytest.fixture(scope="module", params=UNETS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def made(name):
    return full_size(name)


def test_it_is_as_large_as_the_published_one(name, made):
    assert sum(p.numel() for p in made[1][0].parameters()) / 1e6 == pytest.approx(MILLIONS[name], rel=1e-3)


def test_every_tensor_maps_both_ways(made):
    _, (unet, vae, texts) = made
    for module, mapping in ((unet, unet_map(unet.config)), (vae, vae_map(vae.config))):
        state = module.state_dict()
        canonical = to_canonical(state, mapping)
        assert len(canonical) == len(state)
        back = to_diffusers(canonical, mapping)
        assert back.keys() == state.keys() and all(back[n] is state[n] for n in state)
    for text in texts.values():
        state = nested(text.state_dict())
        back = from_open_clip(to_open_clip(state))
        assert {n: t.shape for n, t in back.items()} == {n: t.shape for n, t in state.items()}


def test_every_tensor_lies_in_one_block_and_each_preset_takes_it_whole_or_not(made):
    names = list(made[1][0].state_dict())
    blocks = set(map(block_of, names))
    for preset in PRESETS:
        for kind in ("shape", "appearance"):
            if find_preset(preset).patterns(kind):
                assert set(find_preset(preset).blocks(kind, names)) <= blocks
    disjoint = [set(find_preset("coarse-fine").blocks(kind, names)) for kind in ("shape", "appearance")]
    assert not disjoint[0] & disjoint[1]
    assert blocks - disjoint[0] - disjoint[1] <= {"time_embedding", "add_embedding"}, (
        "nothing that draws is left out"
    )


def test_shapes_alone_say_which_model_it_is(name, made):
    tensors, (unet, _, texts) = made
    config = recognise({n: tuple(t.shape) for n, t in tensors.items()}, {}, "a file")
    family = FAMILIES[UNETS[name][0]]
    assert (config.family, config.native_size) == (family.name, family.native_size)
    again, _, towers = build_modules(config)
    assert {n: t.shape for n, t in again.state_dict().items()} == {
        n: t.shape for n, t in unet.state_dict().items()
    }
    assert tuple(towers) == tuple(texts) == family.tower_names


@pytest.mark.parametrize("name", ["sd15", "sd2", "sdxl"])
def test_names_are_those_that_diffusers_converts_to(name):
    """Scalars with a number each go through diffusers' own converters: where one comes out is the other
    name."""
    config = full_config(name)
    for mapping, convert, own in ((unet_map(config.unet), convert_ldm_unet_checkpoint, UNET_PREFIX),
                                  (vae_map(config.vae), convert_ldm_vae_checkpoint, "first_stage_model.")):
        names = list(mapping.values())
        tags = {own + n: torch.tensor(i) for i, n in enumerate(names)}
        theirs = convert(tags, dict(config.unet if own == UNET_PREFIX else config.vae))
        assert {n: names[int(tag)] for n, tag in theirs.items()} == mapping


def test_open_clip_s_names_are_those_that_diffusers_reads():
    small = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
        "vocab_size": 99
    }
    config = CLIPTextConfig(**{**FAMILIES["sd2"].towers[0].config, **small, "projection_dim": 32})
    state = nested(CLIPTextModel(config).state_dict())
    layout = {**to_open_clip(state), "text_projection": torch.zeros(32, 32)}
    with torch.device("meta"):
        empty = CLIPTextModel(config)
    prefix = "cond_stage_model.model."
    theirs = convert_open_clip_checkpoint(empty, {prefix + n: t for n, t in layout.items()}, prefix=prefix)
    theirs = nested({n: t for n, t in theirs.items() if n != "text_projection.weight"})
    assert theirs.keys() == state.keys() and all(torch.equal(theirs[n], t) for n, t in state.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [({"in_channels": 9}, "inpainting"),
     ({"projection_class_embeddings_input_dim": 2560}, "2560 numbers beside the timestep"),
     ({"cross_attention_dim": 1280, "projection_class_embeddings_input_dim": 2560}, "an SDXL refiner"),
     ({"use_linear_projection": False}, "mixture of two families"),])
def test_what_only_looks_like_sdxl_is_refused_by_name(change, words):
    config = full_config("sdxl")
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config({**config.unet, **change})
    tensors = full_size("sdxl")[0]
    shapes = {n: tuple(t.shape) for n, t in tensors.items() if not n.startswith(UNET_PREFIX)}
    state = unet.state_dict()
    shapes |= {UNET_PREFIX + c: tuple(state[n].shape) for n, c in unet_map(unet.config).items()}
    with pytest.raises(ESCDiffError, match=words):
        recognise(shapes, {}, "a file")


def test_b_lora_is_at_home_in_sdxl():
    names = list(unet_map(full_config("sdxl").unet))
    found = [find_preset("b-lora").blocks(kind, names) for kind in ("shape", "appearance")]
    assert found == [("up_blocks.0.0",), ("up_blocks.0.1",)]


@pytest.mark.parametrize(("spread", "size", "kind"), [(0.2, 768, "v_prediction"), (0.05, 512, "epsilon")])
def test_sd2_s_prediction_is_read_off_one_bias(spread, size, kind):
    name = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    bias = spread * torch.randn(320, generator=torch.Generator().manual_seed(0))
    shapes = {n: tuple(t.shape) for n, t in full_size("sd2")[0].items()}
    config = recognise(shapes, {}, "a file", lambda prefix: {name: bias})
    assert (config.native_size, config.scheduler["prediction_type"]) == (size, kind)
    assert config.text_encoders["clip_h"]["num_hidden_layers"] == 23, "the last layer is not read"


def test_sd2_loads_from_sgm_s_layout_too(tmp_path):
    """Its trainers name the text tower as SDXL's do; the stock loader takes such files."""
    narrow = {"block_out_channels": [32, 32], "layers_per_block": 1, "attention_head_dim": [1, 1],
              "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
              "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}
    whole = full_config("sd2")
    vae = {**whole.vae, "block_out_channels": [32] * 4, "layers_per_block": 1}
    config = replace(whole, unet={**whole.unet, **narrow}, vae=vae)
    path = random_checkpoint(tmp_path / "usual.safetensors", config, layers=1)
    tensors = {n.replace("cond_stage_model.model.", "conditioner.embedders.0.model."): t
               for n, t in load_file(path).items()}
    save_file(tensors, tmp_path / "sgm.safetensors")
    usual, sgm = (load_model(tmp_path / f"{name}.safetensors", "cpu") for name in ("usual", "sgm"))
    assert sgm.family == "sd2" and sgm.fingerprint == usual.fingerprint
    pairs = zip(*(m.towers[0].encoder.state_dict().values() for m in (usual, sgm)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_sdxl_that_predicts_v_says_so_by_a_mark():
    shapes = {n: tuple(t.shape) for n, t in full_size("sdxl")[0].items()}
    assert recognise(shapes, {}, "a file").scheduler["prediction_type"] == "epsilon"
    assert recognise({**shapes, "v_pred": ()}, {}, "a file").scheduler["prediction_type"] == "v_prediction"
