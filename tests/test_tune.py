"""Tuning: what trains and what stays; the same run twice, cached or checkpointed, is the same run."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from method_zoo import QUICK, disc, hash_of, quick, saved, some_bank

from escdiff_core.attribute import Attribute
from escdiff_core.errors import ESCDiffError
from escdiff_core.learning import views
from escdiff_core.learning.batches import pool_rows
from escdiff_core.learning.learn import prepare
from escdiff_core.learning.recipes import RECIPES, find_recipe
from escdiff_core.learning.views import prepare_views
from escdiff_core.unet.blocks import PRESETS, block_of
from escdiff_core.unet.copy import tensors_of
from escdiff_core.unet.halves import encode

pytestmark = pytest.mark.usefixtures("in_fp32")


COMBINATIONS = [
    *(("escdiff-shape-full", name) for name, preset in PRESETS.items() if preset.shape),
    *(("escdiff-appearance-full", name) for name, preset in PRESETS.items() if preset.appearance),
    ("escdiff-shape", "coarse-fine"), ("escdiff-shape", "paper"),
    ("escdiff-appearance", "fine-decoder+"), ("escdiff-appearance", "whole"),
]  # fmt: skip


@pytest.mark.parametrize("name, preset", COMBINATIONS)
def test_only_the_preset_s_blocks_train(name, preset, model):
    before = hash_of(model)
    tuner = prepare(model, [disc()], quick(name, preset=preset, augmentation="none"))
    tuner.loss().backward()
    trained = {n.split(".lora_")[0] for n in tuner.weights}
    scope = tensors_of(model.unet, tuner.blocks, tuner.recipe.scope)
    assert {block_of(f"{n}.") for n in trained} == {block_of(n) for n in scope}
    parameters = {n.replace(".default", ""): p for n, p in tuner.unet.named_parameters()}
    assert all((p.grad is not None) == (n in tuner.weights) == p.requires_grad for n, p in parameters.items())
    assert tuner.offset.grad.abs().sum() > 0
    tuner.optimizer.forget()
    started = {n: p.detach().clone() for n, p in tuner.weights.items()}
    tuner.step()
    moved = [n for n, p in tuner.weights.items() if not torch.equal(p, started[n])]
    # of LoRA factors, only the zero ones can move in the first step
    assert len(moved) >= 0.45 * len(started)
    original = model.unet.state_dict()
    frozen = {n.replace(".base_layer", ""): p for n, p in parameters.items() if n not in tuner.weights}
    assert frozen.keys() >= original.keys() - tuner.weights.keys()
    assert all(torch.equal(p, original[n]) for n, p in frozen.items())
    assert hash_of(model) == before and not any(p.requires_grad for p in model.text_encoder.parameters())


# those: test_field.py
@pytest.mark.parametrize("name", [n for n, r in RECIPES.items() if r.kind != "concept"])
def test_every_recipe_learns_an_attribute_of_its_kind(name, model, tmp_path, monkeypatch):
    monkeypatch.setattr(views, "bank_of", lambda *_: some_bank())        # a random model draws no outlines
    recipe = RECIPES[name]
    tuner = prepare(model, [disc()], quick(name, steps=1))
    made = tuner.run()
    assert (made.kind, made.preset, made.recipe, made.steps) == (recipe.kind, recipe.preset, name, 1)
    assert (
        made.form == recipe.form
        and made.base_fingerprint == model.fingerprint
        and made.blocks == tuner.kept == tuner.blocks
    )
    assert any(t.abs().sum() > 0 for t in made.delta.values()) and np.isfinite(tuner.report.losses).all()
    assert made.thumbnail and made.reference_hash == disc().hash
    made.save(tmp_path / "a.safetensors")
    assert (
        saved(Attribute.load(tmp_path / "a.safetensors"), tmp_path, "b")
        == (tmp_path / "a.safetensors").read_bytes()
    )


@pytest.mark.parametrize("name", ["escdiff-shape-full", "escdiff-appearance"])
def test_a_seed_decides_the_file(name, model, tmp_path):
    files = [saved(prepare(model, [disc()], quick(name), seed=seed).run(), tmp_path) for seed in (5, 5, 6)]
    assert files[0] == files[1] != files[2]


# one for each form that draws numbers
@pytest.mark.parametrize("name", ["escdiff-shape-full", "escdiff-shape", "ostaf"])
def test_the_largest_seed_of_the_host_learns_and_is_kept(name, model, tmp_path):
    recipe = find_recipe(name, "shape", **QUICK)
    made = prepare(model, [disc()], recipe, seed=2**64 - 1, preparing=lambda *_: None).run()
    made.save(tmp_path / "a.safetensors")
    assert Attribute.load(tmp_path / "a.safetensors").seed == 2**64 - 1


def test_progress_says_the_step_and_its_loss(model):
    seen = []
    tuner = prepare(model, [disc()], quick("escdiff-appearance-full"))
    tuner.run(lambda p: seen.append((p.step, p.steps, p.loss)))
    assert [(s, n) for s, n, _ in seen] == [(1, 2), (2, 2)]
    assert [loss for *_, loss in seen] == tuner.report.losses


@pytest.mark.parametrize("name", ["escdiff-appearance-full", "escdiff-appearance"])
def test_cached_encoder_features_are_exact_also_while_the_decoder_trains(name, model, monkeypatch):
    tuner = prepare(model, [disc()], quick(name, preset="paper", plain_share=1.0, cached=True, steps=9))
    drawn = []
    monkeypatch.setattr("escdiff_core.learning.tune.encode", lambda unet, x, t, texts, **how: (
        drawn.append((x, t)), encode(unet, x, t, texts, **how))[1])
    for _ in range(3):
        cached = float(tuner.loss().detach())
        x, t = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        pool, _ = tuner.pool
        index, target = pool.index, pool.target
        rng = np.random.default_rng((tuner.seed, 12, tuner.done))
        rows = pool_rows(len(index), tuner.recipe.batch_size, tuner.done, tuner.seed)
        context = tuner.texts(rng, pool.pick(rows).prompts, {tuner.names.token: tuner.vectors()}, t[rows])
        error = (tuner.unet(x[rows], t[rows], context.context).sample - target[rows]).square()
        uncached = (error * tuner.views.weights[index[rows]]).mean()
        assert cached == pytest.approx(float(uncached.detach()), rel=1e-5)
        tuner.step()
    assert len(drawn) == 1, "the encoder ran for the pool and never again"


def test_a_pool_is_used_once_before_it_is_used_again_a_timestep_from_each_slice(model):
    recipe = quick(
        "escdiff-appearance-full", preset="paper", plain_share=1.0, cached=True, pool=12, batch_size=4
    )
    tuner = prepare(model, [disc()], recipe)
    tuner.loss()
    drawn, passes = tuner.pool[0], [[pool_rows(12, 4, 3 * n + i, 5) for i in range(3)] for n in range(2)]
    for rows in passes:
        assert sorted(torch.cat(rows).tolist()) == list(range(12))
        for batch in rows:
            slices = (drawn.t[batch] * 4 // tuner.model.schedule.num_train_timesteps).tolist()
            assert slices == [0, 1, 2, 3]
    assert not torch.equal(torch.stack(passes[0]), torch.stack(passes[1])), (
        "the second time in the company of others"
    )


@pytest.mark.parametrize("name, preset", [
    ("escdiff-shape-full", "paper"), ("escdiff-shape", "coarse-fine"),
    ("escdiff-appearance-full", "resolution"), ("escdiff-appearance-full", "whole"),
])  # fmt: skip
def test_caching_is_refused_where_it_is_not_exact(name, preset, model):
    with pytest.raises(ESCDiffError, match="cannot cache"):
        prepare(model, [disc()], quick(name, preset=preset, cached=True, augmentation="none"))


def test_the_loss_counts_the_subject_more_and_has_mean_weight_one(model):
    recipe = quick("escdiff-shape-full", augmentation="none", background_weight=0.25)
    views = prepare_views(model, [disc()], recipe, 0, "on a table")
    assert views.latents.shape == (1, 4, 8, 8) and views.behind == ("on a table",)
    weights = views.weights[0, 0]
    assert weights.mean() == pytest.approx(1) and weights[4, 4] / weights[0, 0] == pytest.approx(4)
    plain = prepare_views(model, [disc(masked=False)], recipe, 0)
    assert torch.equal(plain.weights, torch.ones_like(plain.weights))


@pytest.mark.parametrize("name", ["escdiff-shape-full", "escdiff-appearance-full"])
def test_views_are_drawn_from_the_seed_and_say_what_they_show(name, model):
    first, same, other = (prepare_views(model, [disc()], quick(name, views=3), seed) for seed in (0, 0, 1))
    assert torch.equal(first.latents, same.latents) and not torch.equal(first.latents, other.latents)
    assert len(set(first.rest)) > 1 and all(b.startswith("on a ") for b in first.behind)
    assert not torch.equal(first.latents[0], first.latents[1])


def test_a_shape_without_an_outline_is_refused_where_views_show_it(model):
    bare = disc(masked=False)
    for pictures in ([bare], [disc(), bare]):
        with pytest.raises(ESCDiffError, match="no outline to learn"):
            prepare(model, pictures, quick("escdiff-shape-full"))
    for name in ("escdiff-shape-paper", "escdiff-appearance-full"):
        assert prepare(model, [bare], quick(name, steps=1)).run().steps == 1


def test_several_references_all_count(model):
    pictures = [disc(), disc(colour=0.3)]
    plain = prepare_views(model, pictures, quick("escdiff-shape-full", augmentation="none"), 0)
    assert len(plain.latents) == 2 and not torch.equal(plain.latents[0], plain.latents[1])
    assert len(prepare_views(model, [*pictures, disc()], quick("escdiff-shape", views=1), 0).latents) == 3
    one, two = (prepare(model, r, quick("escdiff-appearance", steps=1)) for r in (pictures[:1], pictures))
    assert (
        not torch.equal(one.start.features.unet, two.start.features.unet)
        and two.run().reference_hash == pictures[0].hash
    )


def test_references_of_other_sizes_train_if_they_are_alike(model):
    tall = disc((128, 64))
    assert prepare(model, [tall], quick("escdiff-appearance-full", steps=1)).run().steps == 1
    for bad in ([disc(), tall], []):
        with pytest.raises(ESCDiffError, match="aspect ratio"):
            prepare(model, bad, quick("escdiff-appearance-full"))


@pytest.mark.parametrize("arguments, words",
                         [({"token": "two words"}, "one word"), ({"token": "  "}, "one word"),
                          ({"seed": -1}, "seed"), ({"class_word": "\u200bcat"}, "all of them visible"),
                          ({"token": "*\u200b"}, "visible"),
                          ({"class_word": "cat" * 99}, "at most 200 letters"),
                          ({"recipe": {"preset": "fine-decoder"}}, "trains nothing for shape"),
                          ({"recipe": {"augmentation": "flips"}}, "unknown augmentation"),
                          ({"recipe": {"feature_timestep": 1000}}, "999"),])  # fmt: skip
def test_senseless_arguments_are_refused_before_anything_is_learned(arguments, words, model):
    with pytest.raises(ESCDiffError, match=words):
        prepare(model, [disc()], quick("escdiff-shape-full", **arguments.get("recipe", {})),
              **{k: v for k, v in arguments.items() if k != "recipe"})


def test_the_words_an_attribute_stands_for(model):
    shape = prepare(model, [disc()], quick("escdiff-shape-full", steps=0), class_word=" star\u00a0").run()
    assert (shape.word, shape.extra["init_word"]) == ("star", "star")
    appearance = prepare(model, [disc()], quick("escdiff-appearance-full", steps=0)).run()
    assert [appearance.word, appearance.extra["init_word"]] == ["plain", "appearance"]
    tuner = prepare(model, [disc()], quick("escdiff-appearance-paper"), class_word="star")
    said = tuner.names.init_word, tuner.names.plain
    assert said == ("appearance", "plain"), "what an appearance is of stands in the prompt instead"
    assert all("star" in p for p in tuner.draws(np.random.default_rng(0), 9).prompts)


def test_a_token_that_is_part_of_a_word_replaces_no_part_of_a_word(model):
    tuner = prepare(model, [disc()], quick("escdiff-appearance-paper"), token="ph")
    assert tuner.texts.plain_states(["a photo of a ph star"], ["ph"]).context.shape[1] == 77
    assert list(tuner.texts.known) == ["a photo of a plain star"]


def test_v_prediction_learns_towards_its_own_target(model):
    v = replace(model, schedule=replace(model.schedule, prediction_type="v_prediction"))
    eps, other = (prepare(m, [disc()], quick("escdiff-appearance-full")) for m in (model, v))
    rngs = (np.random.default_rng(3) for _ in range(2))
    one, two = (tuner.draws(r, 2) for tuner, r in zip((eps, other), rngs, strict=True))
    (t, x, noise), (same, target) = (one.t, one.x, one.target), (two.x, two.target)
    assert torch.equal(x, same)
    alpha = model.schedule.alphas_cumprod()[t].view(-1, 1, 1, 1)
    # x = a z + s eps and v = a eps - s z, so that eps = s x + a v
    torch.testing.assert_close((1 - alpha).sqrt() * x + alpha.sqrt() * target, noise, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["escdiff-shape-full", "escdiff-appearance-full", "escdiff-appearance"])
def test_checkpointing_changes_memory_and_nothing_else(name, model):
    plain, lean = (prepare(model, [disc()], quick(name), checkpointing=on) for on in (False, True))
    kept = {}
    for tuner in (plain, lean):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x
        ):
            tuner.loss().backward()
        kept[tuner] = sum(sizes)
    assert kept[lean] < 0.8 * kept[plain]
    for n, p in plain.weights.items():
        assert torch.allclose(p.grad, lean.weights[n].grad, rtol=1e-4, atol=1e-7), n
    assert not any(getattr(m, "gradient_checkpointing", False) for m in model.unet.modules())


def test_bf16_computes_the_same_step_roughly_and_keeps_fp32_weights(model):
    plain, quick_one = (
        prepare(model, [disc()], quick("escdiff-shape-full"), precision=p) for p in ("fp32", "bf16")
    )
    losses = [t.step() for t in (plain, quick_one)]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.03)
    assert all(p.dtype == torch.float32 for p in quick_one.weights.values())
    with pytest.raises(ESCDiffError, match="unknown precision 'int8'; known: auto, bf16, fp32"):
        prepare(model, [disc()], quick("escdiff-shape-full"), precision="int8").step()


def test_an_attribute_is_the_average_over_the_last_steps(model):
    tuner = prepare(
        model,
        [disc()],
        find_recipe("textual-inversion", "shape", batch_size=1, warmup_steps=0, average=1.0, steps=3),
    )
    seen = []
    for _ in range(3):
        tuner.step()
        seen.append(tuner.offset.detach().clone())
    with tuner.optimizer.averaged():
        torch.testing.assert_close(tuner.offset.detach(), torch.stack(seen).mean(0))
    assert torch.equal(tuner.offset, seen[-1]), "training goes on from the last step"
    last = prepare(
        model,
        [disc()],
        find_recipe("textual-inversion", "shape", batch_size=1, warmup_steps=0, average=0.0, steps=3),
    )
    last.run()
    with last.optimizer.averaged():
        torch.testing.assert_close(last.offset.detach(), seen[-1])
