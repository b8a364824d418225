"""Sampling: deterministic per picture, guided in one batch, open to routes; latents and back; the noise
schedule."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from model_zoo import POCKET, random_modules

from escdiff_core.errors import ESCDiffError
from escdiff_core.families.load import load_model
from escdiff_core.families.save import write_checkpoint
from escdiff_core.model.autoencoder import image_to_latents, latents_to_images
from escdiff_core.model.conditioning import Conditioning, predict
from escdiff_core.model.sample import (
    SCHEDULERS,
    Drawing,
    draw,
    make_scheduler,
    sample,
    start_noise,
)
from escdiff_core.model.schedule import NoiseSchedule
from escdiff_core.model.text import encode_prompts, word_embedding


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("pocket") / "pocket.safetensors"
    write_checkpoint(
        path, *random_modules(POCKET), {k: POCKET[k] for k in ("scheduler", "native_size", "tokenizer")}
    )
    return load_model(path, device="cpu")


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_starts_at_the_last_timestep(model, scheduler):
    pictures = sample(model, ["a red star"], how=Drawing(3, scheduler=scheduler, size=32))
    assert pictures.shape == (1, 32, 32, 3) and pictures.dtype == np.float32
    assert np.isfinite(pictures).all() and pictures.min() >= 0 and pictures.max() <= 1
    solver = make_scheduler(model.schedule, scheduler)
    solver.set_timesteps(10)
    assert int(solver.timesteps[0]) == 999 and len(solver.timesteps) == 10


def test_a_picture_depends_on_its_own_seed_not_on_its_batch(model):
    prompts = ["a red star", "a heart", "a photo"]
    together = sample(model, prompts, how=Drawing(3, seed=7, size=32))
    assert np.array_equal(together, sample(model, prompts, how=Drawing(3, seed=7, size=32)))
    chunked = sample(model, prompts, how=Drawing(3, seed=7, size=32, batch_size=2))
    np.testing.assert_allclose(chunked, together, atol=1e-4)
    np.testing.assert_allclose(
        sample(model, ["a photo"], how=Drawing(3, seed=9, size=32))[0], together[2], atol=1e-4
    )
    another = sample(model, ["a photo"], how=Drawing(3, seed=8, size=32))[0]
    assert not np.allclose(another, together[2], atol=1e-3)


def test_behind_the_largest_seed_comes_the_first(model):
    drawn = sample(model, ["a photo", "a photo"], how=Drawing(1, seed=2**64 - 1, size=32))
    first = sample(model, ["a photo"], how=Drawing(1, seed=0, size=32))[0]
    np.testing.assert_allclose(drawn[1], first, atol=1e-4)


def test_it_is_what_diffusers_pipeline_draws(model):
    pipeline = StableDiffusionPipeline(
        vae=model.vae, unet=model.unet, text_encoder=model.text_encoder, tokenizer=model.tokenizer,
        scheduler=make_scheduler(model.schedule, "ddim"), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False)  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        ["a red star", "a heart"], negative_prompt=["a photo"] * 2, num_inference_steps=4, guidance_scale=4.0,
        latents=start_noise(model, [3, 4], 32, 32), output_type="np").images  # fmt: skip
    ours = sample(model, ["a red star", "a heart"], "a photo", Drawing(4, 4.0, 3, 32, "ddim"))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_guidance_runs_as_one_batch_with_the_negatives_first(model):
    states = encode_prompts(model, ["a star", "a heart"]).context
    calls = []

    def unet_call(latents, timestep, context):
        calls.append((len(latents), context))
        return predict(model.unet, latents, timestep, context)

    both, photo = (encode_prompts(model, texts) for texts in (["a star", "a heart"], ["photo"]))
    draw(model, both, photo, Drawing(2, size=32), unet_call)
    assert [n for n, _ in calls] == [4, 4]
    negative = encode_prompts(model, ["photo"]).context[0]
    assert all(torch.equal(row, negative) for row in calls[0][1][:2].context)
    assert torch.equal(calls[0][1][2:].context, states)
    calls.clear()
    draw(model, both, None, Drawing(2, 1.0, size=32), unet_call)
    assert [n for n, _ in calls] == [2, 2]


def test_given_states_replace_prompts(model):
    states, nothing = encode_prompts(model, ["a star"]), encode_prompts(model, [""])
    expected = sample(model, ["a star"], how=Drawing(2, size=32))
    given = draw(model, states, nothing, Drawing(2, size=32))
    assert np.array_equal(given, expected)
    learned = sample(
        model, ["a *m"], how=Drawing(2, size=32), tokens={"*m": word_embedding(model.towers[0], "star")}
    )
    assert np.array_equal(learned, expected)


def test_progress_counts_all_batches_and_may_cancel(model):
    seen = []
    how = Drawing(2, size=32, batch_size=2)
    sample(model, ["a"] * 3, how=how, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def cancel(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(model, ["a"], how=Drawing(2, size=32), progress=cancel)


def test_size_may_be_oblong(model):
    assert sample(model, ["a"], how=Drawing(1, size=(32, 48))).shape == (1, 32, 48, 3)
    assert sample(model, ["a"], how=Drawing(1)).shape == (1, 64, 64, 3)


@pytest.mark.parametrize("wrong", [{"size": 33}, {"size": 0}, {"steps": 0}, {"steps": 1001},
                                   {"scheduler": "nonsense"}, {"batch_size": 0}, {"denoise": 0.0},
                                   {"start": torch.zeros(1, 4, 5, 5)}])  # fmt: skip
def test_impossible_wishes_are_refused(model, wrong):
    with pytest.raises(ESCDiffError):
        sample(model, ["a"], how=Drawing(**{"size": 32, "steps": 1, **wrong}))


@pytest.mark.parametrize("prompts", [[], None, "a string"])
def test_what_is_no_list_of_prompts_is_refused(model, prompts):
    with pytest.raises(ESCDiffError):
        sample(model, prompts)


@pytest.mark.parametrize("negatives", [None, Conditioning(torch.zeros(1, 3, 48))])
def test_negatives_that_do_not_fit_are_refused(model, negatives):
    with pytest.raises(ESCDiffError, match="must be alike"):
        draw(model, encode_prompts(model, ["a"]), negatives, Drawing(1, size=32))


def test_latents_are_scaled_and_come_back(model):
    pictures = np.random.default_rng(0).random((2, 32, 48, 3), dtype=np.float32)
    latents = image_to_latents(model, pictures)
    assert latents.shape == (2, 4, 4, 6) and latents.dtype is torch.float32
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2) * 2 - 1
    with torch.no_grad():
        assert torch.equal(latents, model.vae.encode(pixels).latent_dist.mean * 0.7)
        decoded = model.vae.decode(latents / 0.7).sample / 2 + 0.5
    np.testing.assert_allclose(
        latents_to_images(model, latents), decoded.clamp(0, 1).permute(0, 2, 3, 1).numpy()
    )
    drawn = [image_to_latents(model, pictures, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    with pytest.raises(ESCDiffError, match="multiples of 8"):
        image_to_latents(model, pictures[:, :30])


def test_pocket_schedule_ends_in_noise():
    pocket = NoiseSchedule(beta_end=0.03).alphas_cumprod()
    assert pocket.shape == (1000,) and pocket[-1] < 1e-5 < 4e-3 < NoiseSchedule().alphas_cumprod()[-1]
    betas = torch.linspace(0.00085**0.5, 0.03**0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(pocket.double(), torch.cumprod(1 - betas, 0), rtol=1e-4, atol=0)
    assert torch.equal(pocket, DDIMScheduler(**NoiseSchedule(beta_end=0.03).config()).alphas_cumprod)


@pytest.mark.parametrize(
    "config",
    [{"beta_schedule": "cosine"}, {"prediction_type": "sample"}, {"beta_end": 2.0},
     {"num_train_timesteps": "x"}, {"rescale_betas_zero_snr": True}, {"trained_betas": [0.1]},])  # fmt: skip
def test_other_schedules_are_refused(config):
    with pytest.raises(ESCDiffError):
        NoiseSchedule.from_config(config)
