"""Learning, mixing and drawing on models of every family, in small: the same method, and what diffusers' own
pipelines draw."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from family_zoo import tiny_family_model
from method_zoo import QUICK, disc, hash_of

from escdiff_core.attribute import Attribute
from escdiff_core.attribute.export import export_embedding, export_lora
from escdiff_core.errors import ESCDiffError
from escdiff_core.families import FAMILIES
from escdiff_core.learning.learn import learn, prepare
from escdiff_core.learning.recipes import find_recipe
from escdiff_core.mixing.mix import Mix
from escdiff_core.mixing.plan import Use
from escdiff_core.model.conditioning import Conditioning, joined, predict
from escdiff_core.model.sample import Drawing, make_scheduler, sample, start_noise
from escdiff_core.model.text import encode_prompts, word_embedding
from escdiff_core.model.weighted import encode_weighted
from escdiff_core.unet.halves import decode, encode

PROMPT = "a photo of a *m with *a appearance"


# One of each anatomy: the others differ in how deep they are
@pytest.fixture(scope="module", params=["sd2", "sdxl", "Segmind Vega", "KOALA-700M"])
def model(request):
    return tiny_family_model(request.param)


@pytest.fixture(scope="module")
def learned(model):
    """What each kind's default recipe learns of a picture."""
    row = FAMILIES[model.family]
    return {kind: learn(model, [disc()], find_recipe(row.recipes[kind], **QUICK))[0] for kind in row.recipes}


def test_every_family_s_default_learns_leaves_the_model_alone_and_keeps_its_towers(model, learned, tmp_path):
    before = hash_of(model)
    for kind, made in learned.items():
        made.save(tmp_path / f"{kind}.safetensors")
        again = Attribute.load(tmp_path / f"{kind}.safetensors")
        assert again.delta.keys() == made.delta.keys() and all(
            bool(t.isfinite().all()) for t in again.delta.values()
        )
        assert {n: t.shape[1] for n, t in again.embeddings.items()} == {t.name: t.width for t in model.towers}
        assert again.extra["family"] == model.family
    both = Mix(model, Use(learned["shape"]), Use(learned["appearance"])).draw(PROMPT, steps=2)
    plain = Mix(model).draw("a photo of a object with plain appearance", steps=2)
    assert np.isfinite(both).all() and not np.allclose(both, plain, atol=1e-3)
    off = Mix(model, Use(learned["shape"], 0.0), Use(learned["appearance"], 0.0)).draw(PROMPT, steps=2)
    base = sample(model, ["a photo of a object with plain appearance"], how=Drawing(2))
    assert np.array_equal(off, base), "strength 0 is the base"
    assert hash_of(model) == before


@torch.no_grad()
def test_the_two_halves_are_the_unet_s_forward(model):
    texts = encode_prompts(model, ["a star", "two red boats"])
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 900])
    assert torch.equal(
        decode(model.unet, encode(model.unet, x, t, texts), texts), predict(model.unet, x, t, texts)
    )


def test_a_step_has_a_gradient_to_every_tower_s_token(model):
    tuner = prepare(model, [disc()], find_recipe("escdiff-shape", **QUICK), precision="fp32")
    tuner.loss().backward()
    parts = tuner.offset.grad.split([tower.width for tower in model.towers], dim=1)
    assert all(float(part.abs().sum()) > 0 for part in parts)


@torch.no_grad()
def test_a_word_s_own_vectors_say_what_the_word_says_in_every_tower(model):
    vectors = {tower.name: word_embedding(tower, "heart") for tower in model.towers}
    for how in (encode_prompts, encode_weighted):
        learned, plain = how(model, ["a red *m"], {"*m": vectors}), how(model, ["a red heart"])
        assert torch.equal(learned.context, plain.context)
        assert (learned.pooled is None) == (plain.pooled is None) == (model.family != "sdxl")
        assert plain.pooled is None or torch.equal(learned.pooled, plain.pooled)


def test_exports_name_the_family_s_own(model, learned, tmp_path):
    report = export_lora(learned["shape"], tmp_path / "lora.safetensors", rank=2)
    assert report.size > 0 and not any("up_blocks" in name for name in report.dropped)
    export_embedding(learned["shape"], tmp_path / "e.safetensors")
    with pytest.raises(ESCDiffError, match="another base model"):
        Mix(tiny_family_model("sd2" if model.family != "sd2" else "sdxl"), Use(learned["shape"]))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_sd2_draws_what_diffusers_draws(kind):
    model = tiny_family_model("sd2", prediction_type=kind)
    pipeline = StableDiffusionPipeline(
        vae=model.vae, unet=model.unet, text_encoder=model.text_encoder, tokenizer=model.tokenizer,
        scheduler=make_scheduler(model.schedule, "ddim"), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False)
    compare(model, pipeline)


@pytest.mark.parametrize("name", ["sdxl", "Segmind Vega", "KOALA-700M"])
def test_sdxl_draws_what_diffusers_draws(name):
    model = tiny_family_model(name)
    one, two = model.towers
    pipeline = StableDiffusionXLPipeline(vae=model.vae, unet=model.unet, text_encoder=one.encoder,
                                         text_encoder_2=two.encoder, tokenizer=one.tokenizer,
                                         tokenizer_2=two.tokenizer,
                                         scheduler=make_scheduler(model.schedule, "ddim"),
                                         add_watermarker=False, force_zeros_for_empty_prompt=False)
    compare(model, pipeline)


def compare(model, pipeline):
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(["a red star", "a heart"], negative_prompt=["a photo"] * 2, num_inference_steps=3,
                      guidance_scale=4.0, latents=start_noise(model, [3, 4], 32, 64), height=32, width=64,
                      output_type="np").images
    ours = sample(
        model, ["a red star", "a heart"], "a photo", Drawing(3, 4.0, 3, (32, 64), "ddim")
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_conditionings_are_joined_cut_and_told_the_picture_s_size():
    one = Conditioning(torch.zeros(1, 3, 2), torch.ones(1, 4))
    many = joined([one, one.expand(2)])
    assert len(many) == 3 and many[1:].pooled.shape == (2, 4)
    assert many.added(torch.zeros(3, 4, 5, 7))["time_ids"].tolist() == [[40, 56, 0, 0, 40, 56]] * 3
    given = Conditioning(many.context, many.pooled, torch.tensor([[1, 2, 3, 4, 5, 6]]).expand(3, -1))
    assert given.added(torch.zeros(3, 4, 5, 7))["time_ids"].tolist() == [[1, 2, 3, 4, 5, 6]] * 3
    assert Conditioning(torch.zeros(1, 3, 2)).added(torch.zeros(1, 4, 5, 7)) is None


def test_a_token_without_a_tower_s_vectors_is_refused_in_words():
    model = SimpleNamespace(towers=tiny_family_model("sdxl").towers)
    with pytest.raises(ESCDiffError, match="no vectors for the text encoder clip_g"):
        encode_prompts(model, ["a *m"], {"*m": {"clip_l": torch.zeros(1, 32)}})
