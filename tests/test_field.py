"""The field's methods as rows of the recipe table: what each trains, keeps and shows to which layer, for both
kinds."""

import numpy as np
import pytest
import torch
from method_zoo import disc, hash_of, made_attribute, tiny_model
from model_zoo import states

from escdiff_core.attribute import Attribute
from escdiff_core.attribute.export import export_embedding
from escdiff_core.choices import FORMS, STAGES
from escdiff_core.errors import ESCDiffError
from escdiff_core.learning.learn import prepare
from escdiff_core.learning.recipes import RECIPES, WORDS, find_recipe
from escdiff_core.learning.views import PRIOR_STEPS
from escdiff_core.mixing.mix import Mix
from escdiff_core.mixing.plan import Use
from escdiff_core.model.names import unet_map
from escdiff_core.unet.blocks import KINDS, block_of, find_preset
from escdiff_core.unet.copy import tensors_of
from escdiff_core.unet.tokens import cross_blocks, in_one, stage_of

FIELD = [name for name, recipe in RECIPES.items() if recipe.kind == "concept"]
QUICK = {
    "steps": 2, "batch_size": 2, "views": 1, "warmup_steps": 0, "rank": 2, "lr_weights": 1e-2, "lr_token": 0.1
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def tuned(model, name, kind, **changes):
    tuner = prepare(model, [disc()], find_recipe(name, kind, **{**QUICK, **changes}),
                    describe="on a red table", precision="fp32")
    tuner.run()
    return tuner


@pytest.fixture(scope="module")
def learned(model):
    """Each method's two attributes, learned once."""
    return {name: {kind: tuned(model, name, kind).attribute() for kind in KINDS} for name in FIELD}


def trained_blocks(made, model):
    names = {c: n for n, c in unet_map(model.unet.config).items()}
    return {
        block_of(names[k.removesuffix(".alpha").split(".lora_")[0] + ("" if k in names else ".weight")])
        for k in made.delta
    }


@pytest.mark.parametrize("name", FIELD)
def test_every_method_learns_both_kinds_and_mixes_what_it_learned(name, model, learned, tmp_path):
    before = hash_of(model)
    for kind, made in learned[name].items():
        assert (made.kind, made.token, made.word, made.recipe) == (
            kind,
            WORDS[kind]["token"],
            WORDS[kind]["word"],
            name,
        )
        assert made.reach == "all" and made.layout == RECIPES[name].layout
        made.save(tmp_path / f"{kind}.safetensors")
        assert Attribute.load(tmp_path / f"{kind}.safetensors").describe() == made.describe()
    mixed = Mix(model, *(Use(made) for made in learned[name].values()))
    drawn = mixed.draw("a *m with *a appearance", steps=2, seed=1)
    plain = Mix(model).draw("an object with plain appearance", steps=2, seed=1)
    assert np.isfinite(drawn).all() and not np.array_equal(drawn, plain)
    assert hash_of(model) == before


def test_what_each_method_trains(model, learned):
    assert not learned["textual-inversion"]["shape"].delta and not learned["p-plus"]["shape"].delta
    assert len(learned["dreambooth"]["shape"].delta) == len(model.unet.state_dict())
    assert {n.rsplit(".", 2)[1] for n in learned["custom-diffusion"]["shape"].delta} == {"to_k", "to_v"}
    assert all(".attn2." in n for n in learned["custom-diffusion"]["shape"].delta)
    assert {n.split(".")[0] for n in learned["ostaf"]["shape"].delta} == {"input_blocks"}
    assert (
        all("attn" in n for n in learned["ostaf"]["appearance"].delta)
        and learned["ostaf"]["appearance"].form == "full"
    )
    assert learned["b-lora"]["appearance"].form == "lora"
    frozen = prepare(model, [disc()], find_recipe("dreambooth", "shape", steps=2, batch_size=2))
    before = frozen.vectors()["clip_l"].detach()
    frozen.run()
    assert torch.equal(frozen.vectors()["clip_l"], before), "DreamBooth's token is a word that stays"


@pytest.mark.parametrize("name", ["b-lora", "forgedit"])
def test_learned_together_and_kept_apart(name, model, learned):
    names = list(model.unet.state_dict())
    preset = find_preset(RECIPES[name].preset)
    tuner = prepare(model, [disc()], find_recipe(name, "shape", **QUICK))
    assert set(tuner.blocks) == set(preset.blocks("concept", names))
    for kind, made in learned[name].items():
        assert trained_blocks(made, model) == set(preset.blocks(kind, names)) == set(made.blocks)


@pytest.mark.parametrize("form", FORMS)
def test_no_form_changes_anything_before_its_first_step(form, model):
    tuner = prepare(model, [disc()], find_recipe("ostaf", "shape", form=form, rank=2), precision="fp32")
    assert not any(
        v.any()
        for n, v in tuner.trained.delta(tuner.kept).items()
        if not n.endswith(("alpha", "lora_down.weight"))
    )
    x, t = torch.zeros(1, 4, 8, 8), torch.tensor([5])
    context, *others = states(model, ["a star", "a red boat", "two houses"]).split(1)
    with torch.no_grad():
        tuned_on = torch.cat([context, *others], dim=1) if tuner.trained.slots else context
        torch.testing.assert_close(tuner.unet(x, t, tuned_on).sample, model.unet(x, t, context).sample)


def test_offsets_are_predicted_from_one_code_and_the_delta_is_what_trained(model):
    tuner = tuned(model, "ostaf", "appearance")
    with tuner.optimizer.averaged():
        delta = tuner.trained.delta(tuner.kept)
        for name in tensors_of(model.unet, tuner.blocks, "attention"):
            if name.endswith(".weight"):
                now = tuner.unet.get_submodule(name.removesuffix(".weight")).weight.detach()
                torch.testing.assert_close(
                    now, model.unet.state_dict()[name] + delta[unet_map(model.unet.config)[name]]
                )
    moved = [n for n, p in tuner.weights.items() if p.abs().sum() > 0 and n.endswith("row.weight")]
    assert len(moved) == len(delta) and "code" in tuner.weights


def test_prior_preservation_shows_the_model_its_own_pictures_of_the_plain_word(model):
    tuner = prepare(
        model, [disc()], find_recipe("dreambooth-prior", "shape", steps=1, batch_size=64, prior=3)
    )
    steps = []
    prepare(model, [disc()], find_recipe("dreambooth-prior", "shape", steps=1, prior=1),
            preparing=lambda *done: steps.append(done))
    assert steps[-1] == (len(steps), len(steps)) and len(steps) == 2 + PRIOR_STEPS, (
        "a view drawn and encoded, then the pictures"
    )
    assert len(tuner.views.latents) == 1 + 3 and torch.equal(
        tuner.views.weights[1:], torch.ones_like(tuner.views.weights[1:])
    )
    drawn = tuner.draws(np.random.default_rng(0), 64)
    index, prompts = drawn.index, drawn.prompts
    assert 10 < (index == 0).sum() < 54 and set(index.tolist()) == {0, 1, 2, 3}
    assert all(
        ("*m" in p) == (i == 0) and ("object" in p) == (i > 0)
        for i, p in zip(index.tolist(), prompts, strict=True)
    )


# -- tokens with several vectors -----------------------------------------------------------------------------


def test_p_plus_keeps_the_vectors_of_its_own_layers_and_the_word_elsewhere(model, learned):
    cross = cross_blocks(model.unet.state_dict())
    assert len(cross) == 16
    for kind in KINDS:
        rows = learned["p-plus"][kind].embeddings["clip_l"]
        word = tuned(model, "p-plus", kind, steps=0).start.words["clip_l"]
        own = find_preset("resolution").blocks(kind, model.unet.state_dict())
        assert rows.shape[0] == 16
        for row, block in zip(rows, cross, strict=True):
            assert torch.allclose(row, word, atol=1e-6) == (block not in own), block


@torch.no_grad()
def test_every_layer_reads_its_own_vector(model, learned):
    made = learned["p-plus"]["shape"]
    variant = Mix(model, shape=Use(made)).variant(0.0)
    assert variant.route.slots == 16
    assert Mix(model, *(Use(a) for a in learned["p-plus"].values())).variant(0.0).route.slots == 16
    seen = {}
    for name, module in variant.unet.named_modules():
        if name.endswith("attn2.to_k"):
            module.register_forward_hook(
                lambda _m, args, _o, name=name: seen.update({block_of(name): args[0]})
            )
    variant.unet(torch.zeros(1, 4, 8, 8), torch.tensor([5]), variant.states("a *m on a table").context)
    for row, block in enumerate(cross_blocks(model.unet.state_dict())):
        own = states(model, ["a *m on a table"], {"*m": made.embeddings["clip_l"][row]})
        torch.testing.assert_close(seen[block], own)


def test_prospect_has_a_vector_per_tenth_of_the_schedule_and_each_kind_its_own(model, learned):
    word = tuned(model, "prospect", "shape", steps=0).start.words["clip_l"]
    rows = learned["prospect"]["shape"].embeddings["clip_l"]
    kept = [not torch.allclose(row, word, atol=1e-6) for row in rows]
    assert kept[:4] == [False] * 4 and any(kept[4:]), "shape keeps the noisy stages"
    assert (stage_of(0, 1000), stage_of(398, 1000), stage_of(399, 1000), stage_of(999, 1000)) == (
        0,
        3,
        4,
        STAGES - 1,
    )
    mixed = Mix(model, *(Use(made) for made in learned["prospect"].values()))
    assert len(mixed.parts) == STAGES
    for t in (0, 98, 99, 100, 500, 598, 599, 699, 700, 899, 900, 999):
        rows_seen = [
            u.attribute.embeddings["clip_l"][0] for u in mixed.variant(round(1 - (t + 1) / 1000, 6)).active
        ]
        assert torch.equal(rows_seen[0], rows[stage_of(t, 1000)]), (
            f"drawing at {t} reads the vector that training showed there"
        )
    for progress, stage in ((0.0, 9), (0.05, 9), (0.95, 0), (0.55, 4)):
        seen = mixed.variant(progress).states("a *m").context
        torch.testing.assert_close(seen, states(model, ["a *m"], {"*m": rows[stage]}))


def test_space_time_tokens_have_a_vector_per_layer_and_tenth_of_the_schedule(model, learned):
    cross = cross_blocks(model.unet.state_dict())
    made = learned["neti"]["shape"]
    rows, own = made.embeddings["clip_l"], find_preset("resolution").blocks("shape", model.unet.state_dict())
    word = tuned(model, "neti", "shape", steps=0).start.words["clip_l"]
    assert rows.shape[0] == 16 * STAGES
    assert all(torch.allclose(row, word, atol=1e-6) for i, row in enumerate(rows) if cross[i % 16] not in own)
    mixed = Mix(model, shape=Use(made))
    assert len(mixed.parts) == STAGES and mixed.variant(0.55).route.slots == 16
    seen = {}
    variant = mixed.variant(0.55)
    for name, module in variant.unet.named_modules():
        if name.endswith("attn2.to_k"):
            module.register_forward_hook(
                lambda _m, args, _o, name=name: seen.update({block_of(name): args[0]})
            )
    with torch.no_grad():
        variant.unet(torch.zeros(1, 4, 8, 8), torch.tensor([440]), variant.states("a *m").context)
        for row, block in enumerate(cross):
            torch.testing.assert_close(seen[block], states(model, ["a *m"], {"*m": rows[4 * 16 + row]}))


@pytest.mark.parametrize("layout", ["layers", "stages", "layers+stages"])
def test_training_shows_every_slot_and_row_its_own_vector(layout, model):
    name = {"layers": "p-plus", "stages": "prospect", "layers+stages": "neti"}[layout]
    tuner = tuned(model, name, "shape")
    vectors = tuner.vectors()["clip_l"].detach()
    timesteps = torch.tensor([10, 950])
    prompts = ["a *m", "a photo of a *m"]
    with torch.no_grad():
        packed = tuner.texts(np.random.default_rng(0), prompts, {"*m": {"clip_l": vectors}}, timesteps)
    slots = packed.context.chunk(tuner.route.slots, dim=1)
    assert len(slots) == {"layers": 16, "stages": 1, "layers+stages": 16}[layout]
    for i, slot in enumerate(slots):
        for row, (prompt, t) in enumerate(zip(prompts, timesteps.tolist(), strict=True)):
            stage = stage_of(t, 1000)
            vector = vectors[{"layers": i, "stages": stage, "layers+stages": 16 * stage + i}[layout]]
            torch.testing.assert_close(slot[row], states(model, [prompt], {"*m": vector})[0])


def test_several_vectors_make_no_embedding_file_and_their_mean_serves_one_prompt(model, learned, tmp_path):
    made = learned["p-plus"]["shape"]
    with pytest.raises(ESCDiffError, match="a vector for each of the layers"):
        export_embedding(made, tmp_path / "e.safetensors")
    rows, mean = made.embeddings["clip_l"], in_one(made).embeddings["clip_l"]
    assert mean.shape == (1, rows.shape[1]) and mean.norm() == pytest.approx(
        float(rows.norm(dim=1).mean()), rel=1e-5
    )
    assert torch.nn.functional.cosine_similarity(mean[0], rows.mean(0), dim=0) == pytest.approx(1)
    one = learned["textual-inversion"]["shape"]
    assert in_one(one) is one


def test_a_token_of_another_model_s_layers_is_refused_in_words(model):
    short = made_attribute(model, "shape", layout="layers")
    with pytest.raises(ESCDiffError, match="has 1 vectors"):
        Mix(model, shape=Use(short)).variant(0.0)


# -- who sees which token ------------------------------------------------------------------------------------


@torch.no_grad()
def test_tokens_with_reach_all_are_read_by_every_block_in_one_slot(model):
    shape, appearance = (made_attribute(model, kind, reach="all") for kind in KINDS)
    variant = Mix(model, Use(shape), Use(appearance)).variant(0.0)
    prompt = "a *m with *a appearance"
    tokens = {a.token: a.embeddings["clip_l"] for a in (shape, appearance)}
    assert variant.route.slots == 1
    assert torch.equal(variant.states(prompt).context, states(model, [prompt], tokens))
    own = made_attribute(model, "appearance")
    slots = Mix(model, Use(shape), Use(own)).variant(0.0).states(prompt).context.chunk(2, dim=1)
    torch.testing.assert_close(slots[0], states(model, ["a *m with plain appearance"], tokens))
    torch.testing.assert_close(slots[1], states(model, [prompt], {**tokens, "*a": own.embeddings["clip_l"]}))


@pytest.mark.parametrize("arguments, words",
                         [(("escdiff-shape", "appearance"),
                           "learns shape, not appearance; recipes for appearance: .*textual-inversion"),
                          (("dreambooth", None, {"scope": "heads"}), "unknown scope 'heads'"),])
def test_a_recipe_that_does_not_fit_says_what_would(arguments, words):
    name, kind, *changes = arguments
    with pytest.raises(ESCDiffError, match=words):
        find_recipe(name, kind, **(changes[0] if changes else {}))


@pytest.mark.parametrize("field, value", [("reach", "some"), ("layout", "pixels")])
def test_a_file_with_an_unknown_reach_or_layout_is_refused(field, value, model):
    with pytest.raises(ESCDiffError, match=f"unknown .*'{value}'; known"):
        made_attribute(model, "shape", **{field: value}).quantised()
