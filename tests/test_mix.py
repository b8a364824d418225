"""Mixed sampling: strength 0 is the base bit for bit, deltas and tokens go where the route says, nothing else
moves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from method_zoo import WIDTH, disc, hash_of, made_attribute, tiny_model

from escdiff_core.errors import ESCDiffError
from escdiff_core.learning.learn import prepare
from escdiff_core.learning.recipes import find_recipe
from escdiff_core.mixing.delta import changed_tensors
from escdiff_core.mixing.mix import Mix, token_vectors
from escdiff_core.mixing.plan import MIDDLES, Use, schedule_parts
from escdiff_core.model.names import unet_map
from escdiff_core.model.sample import Drawing, sample
from escdiff_core.model.text import Words, encode_prompts
from escdiff_core.unet.words import starting_word

DRAW = {"steps": 2, "size": 32, "seed": 3, "guidance_scale": 3.0}
PROMPT = "a photo of a *a *m on a red background"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def shape(model):
    return made_attribute(model, "shape")


@pytest.fixture(scope="module")
def appearance(model):
    return made_attribute(model, "appearance", seed=4)


def draw(mix, prompt=PROMPT, **changes):
    return mix.draw(prompt, **{**DRAW, **changes})


def states(model, prompt, **tokens):
    return encode_prompts(
        model, [prompt], {f"*{k}": a.embeddings["clip_l"] for k, a in tokens.items()}
    ).context


@torch.no_grad()
def test_strength_0_and_no_attribute_are_the_base_model_bit_for_bit(model, shape, appearance):
    plain = sample(model, ["a photo of a plain object on a red background"], "a star", Drawing(**DRAW))
    off = Mix(model, Use(shape, 0.0), Use(appearance, 0.0))
    assert np.array_equal(draw(off, negative="a star"), plain)
    assert off.variant(0.5).unet is model.unet, "nothing is copied for nothing"
    prompt = "a photo of a plain object on a red background"
    assert np.array_equal(draw(Mix(model), prompt, negative="a star"), plain)
    assert not np.array_equal(draw(Mix(model, Use(shape), Use(appearance)), negative="a star"), plain)


def test_out_of_its_range_an_attribute_is_off(model, shape):
    never = Use(shape, start=1.0)            # the schedule ends before its last instant
    plain = draw(Mix(model), PROMPT.replace("*m", "object"))
    assert np.array_equal(draw(Mix(model, never)), plain)


def test_start_and_end_of_the_schedule(model, shape, appearance):
    mix = Mix(model, Use(shape, end=0.4), Use(appearance, start=0.4, end=0.8))
    kinds = [[u.attribute.kind for u in mix.variant(p).active] for p in (0.0, 0.3, 0.4, 0.6, 0.9)]
    assert kinds == [["shape"], ["shape"], ["shape"], ["appearance"], []], (
        "a border belongs to the part before it"
    )
    assert mix.variant(0.1) is mix.variant(0.2)
    late, whole = Use(shape, start=0.6), Use(shape)
    pictures = [draw(Mix(model, use), steps=4) for use in (late, whole)]
    assert not np.array_equal(*pictures) and all(np.isfinite(p).all() for p in pictures)
    seen = []
    first = Mix(model, Use(shape, end=0.5))
    variant = first.variant
    first.variant = lambda p: seen.append(p) or variant(p)
    draw(first, steps=4)
    assert seen[-4:] == sorted(seen[-4:]) and seen[-4] == 0 and seen[-1] < 1, "from the noise to the picture"


@torch.no_grad()
def test_each_half_gets_its_delta_and_its_prompt_in_one_evaluation(model, shape, appearance):
    variant = Mix(model, Use(shape), Use(appearance)).variant(0.0)
    tensors, base = variant.unet.state_dict(), model.unet.state_dict()
    names = unet_map(model.unet.config)
    deltas = {**shape.delta, **appearance.delta}
    assert len(deltas) == len(shape.delta) + len(appearance.delta)
    for name, tensor in tensors.items():
        delta = deltas.get(names[name])
        assert torch.equal(tensor, base[name] if delta is None else base[name] + delta.float()), name
    own, other = variant.states(PROMPT).context.chunk(2, dim=1)
    assert torch.equal(own, states(model, PROMPT.replace("*a", "plain"), m=shape))
    assert torch.equal(other, states(model, PROMPT.replace("*m", "object"), a=appearance))
    assert {b.split("_")[0] for b, slot in variant.route.layers.items() if slot} == {"up", "conv"}


@torch.no_grad()
@pytest.mark.parametrize("kind", ["shape", "appearance"])
def test_one_attribute_alone(kind, model, shape, appearance):
    made = {"shape": shape, "appearance": appearance}[kind]
    variant = Mix(model, **{kind: Use(made)}).variant(0.0)
    assert variant.route.slots == (1 if kind == "shape" else 2)
    token, word = ("*m", "object") if kind == "shape" else ("*a", "plain")
    packed = variant.states(f"a {token}").context.chunk(variant.route.slots, dim=1)
    assert torch.equal(
        packed[-1], encode_prompts(model, [f"a {token}"], {token: made.embeddings["clip_l"]}).context
    )
    if kind == "appearance":
        assert torch.equal(packed[0], states(model, f"a {word}")), "the other half sees the plain word"


@pytest.mark.parametrize("strength", [1.0, 0.5, -1.0])
def test_the_lora_form_is_the_product_of_its_factors(model, strength):
    made = made_attribute(model, "appearance", "fine-decoder", lora=True)
    changed, base = changed_tensors(model.unet, [(made, strength)]), model.unet.state_dict()
    names = unet_map(model.unet.config)
    assert {names[n] for n in changed} == {
        n.replace(".alpha", ".weight") for n in made.delta if n.endswith(".alpha")
    }
    for name, tensor in changed.items():
        place = names[name].removesuffix(".weight")
        up, down = (made.delta[f"{place}.lora_{part}.weight"].float() for part in ("up", "down"))
        difference = (up.flatten(1) @ down.flatten(1)).reshape(base[name].shape)
        torch.testing.assert_close(tensor, base[name] + strength * difference, atol=1e-6, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["escdiff-shape-full", "escdiff-appearance-full", "escdiff-appearance-paper", "escdiff-shape"]
)
def test_what_was_tuned_is_what_is_drawn(name, model):
    recipe = find_recipe(name, steps=2, batch_size=2, views=2, warmup_steps=0, rank=2, lr_weights=1e-2)
    with torch.enable_grad():
        tuner = prepare(model, [disc()], recipe, precision="fp32")
        made = tuner.run()
    variant = Mix(model, **{recipe.kind: Use(made)}).variant(0.0)
    generator = torch.Generator().manual_seed(2)
    x, t = torch.randn(1, 4, 8, 8, generator=generator), torch.tensor([400])
    prompt = f"a photo of a {tuner.names.token} on a red background"
    with tuner.optimizer.averaged():
        packed = tuner.texts(np.random.default_rng(0), [prompt], {tuner.names.token: tuner.vectors()}, t)
        tuned = tuner.unet(x, t, packed.context).sample
    plain = tuner.texts.plain_states([prompt], [tuner.names.token]).context
    drawn = variant.unet(x, t, variant.states(prompt).context).sample
    base = model.unet(x, t, plain).sample
    assert (drawn - tuned).abs().max() < 0.01 * (tuned - base).abs().max()     # the file keeps deltas in fp16


def test_the_middle_has_the_owner_that_was_asked_for(model):
    shape = made_attribute(model, "shape", "paper+middle")
    appearance = made_attribute(model, "appearance", "paper")
    touched, slots = {}, {}
    for middle in MIDDLES:
        variant = Mix(model, Use(shape), Use(appearance), middle).variant(0.0)
        changed = variant.unet.state_dict()["mid_block.resnets.0.conv1.bias"]
        touched[middle] = not torch.equal(changed, model.unet.mid_block.resnets[0].conv1.bias)
        slots[middle] = variant.route.layers.get("mid_block", 0)
        packed = variant.states(PROMPT).context.chunk(variant.route.slots, dim=1)
        if middle == "none":
            plain = PROMPT.replace("*m", "object").replace("*a", "plain")
            assert torch.equal(packed[slots[middle]], states(model, plain))
    assert touched == {"shape": True, "appearance": False, "none": False}
    assert slots["shape"] == 0 < min(slots["appearance"], slots["none"])
    with pytest.raises(ESCDiffError, match="shape, appearance, none"):
        Mix(model, middle="both")
    with pytest.raises(ESCDiffError, match="divide, add"):
        Mix(model, overlap="both")


@pytest.mark.parametrize("middle, kept", [("shape", True), ("appearance", True), ("none", False)])
def test_a_middle_that_was_learned_is_not_lost_when_nobody_else_is_there(middle, kept, model):
    whole = made_attribute(model, "appearance", "whole")
    variant = Mix(model, appearance=Use(whole), middle=middle).variant(0.0)
    changed = variant.unet.state_dict()["mid_block.resnets.0.conv1.bias"]
    assert torch.equal(changed, model.unet.mid_block.resnets[0].conv1.bias) != kept
    assert variant.route.layers.get("mid_block", 0) == int(kept)


@pytest.mark.parametrize("tokens", [1, 3])
def test_strength_moves_the_token_from_its_plain_word_at_the_words_norms(tokens, model, shape):
    vectors = torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(0))
    made = replace(shape, embeddings={"clip_l": vectors})
    word = starting_word(model, made.word)["clip_l"].expand_as(vectors)
    words = Words.of(model.towers[0])
    assert torch.equal(token_vectors(words, Use(made, 1.0), "clip_l"), vectors)
    torch.testing.assert_close(token_vectors(words, Use(made, 0.0), "clip_l"), word)
    torch.testing.assert_close(
        token_vectors(words, Use(made, 1 - 1e-6), "clip_l"), vectors, rtol=1e-4, atol=1e-4
    )
    half = token_vectors(words, Use(made, 0.5), "clip_l")
    torch.testing.assert_close(half.norm(dim=1), (word.norm(dim=1) + vectors.norm(dim=1)) / 2)
    similar = torch.nn.functional.cosine_similarity
    assert (similar(half, vectors, dim=1) > similar(word, vectors, dim=1)).all()
    far = token_vectors(words, Use(made, 2.0), "clip_l")
    torch.testing.assert_close(far.norm(dim=1), vectors.norm(dim=1))


@pytest.mark.parametrize("prompt", ["a *m in *a", "*a *m", "*m", "nothing of it", "*moon and *m, twice *m"])
def test_tokens_may_stand_anywhere(prompt, model, shape, appearance):
    variant = Mix(model, Use(shape), Use(appearance)).variant(0.0)
    own, other = variant.states(prompt).context.chunk(2, dim=1)
    assert torch.equal(own, states(model, prompt.replace("*a", "plain"), m=shape))
    plain = prompt.replace("*moon", "!").replace("*m", "object").replace("!", "*moon")
    assert torch.equal(other, states(model, plain, a=appearance))


def test_weights_and_long_prompts_are_drawn_as_in_comfyui(model, shape, appearance):
    """A longer prompt beside a shorter negative, and a weight that shows."""
    mix = Mix(model, Use(shape), Use(appearance))
    plain, weighted, long = (draw(mix, prompt, negative="a star") for prompt in (
        "a *m in *a", "a (*m:1.5) in *a", "a *m in *a " + "and a star " * 40))
    assert np.isfinite(long).all() and not np.array_equal(plain, weighted) and not np.array_equal(plain, long)
    assert np.array_equal(plain, draw(mix, "a (*m:1.0) in *a", negative="a star"))


def test_a_token_that_is_part_of_the_other_leaves_it_whole(model, shape, appearance):
    uses = (Use(replace(shape, token="*cat")), Use(replace(appearance, token="*cat-fur")))
    mix = Mix(model, *uses)
    assert mix.variant(0.5).texts("a *cat with *cat-fur appearance") == [
        "a *cat with plain appearance", "a object with *cat-fur appearance"]


def test_the_model_stays_untouched(model, shape, appearance):
    before = hash_of(model)
    for middle in MIDDLES:
        draw(Mix(model, Use(shape, 1.5), Use(appearance, -0.5, end=0.5), middle), count=2)

    def cancel(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(Mix(model, Use(shape), Use(appearance)), progress=cancel)
    assert hash_of(model) == before


def test_pictures_have_their_own_seeds(model, shape, appearance):
    mix = Mix(model, Use(shape), Use(appearance))
    two = draw(mix, count=2)
    assert two.shape == (2, 32, 32, 3) and np.array_equal(two, draw(mix, count=2))
    np.testing.assert_allclose(draw(mix, seed=4)[0], two[1], atol=1e-4)
    assert draw(mix, size=(32, 64)).shape == (1, 32, 64, 3)


NARROW = {"clip_l": torch.zeros(1, 7)}
WRONG = {  # what is tried with (model, shape, appearance): words of the sentence
    "another base": (
        lambda m, s, a: Mix(m, Use(replace(s, base_fingerprint="f" * 64))),
        "on another base model",
    ),
    "same token": (lambda m, s, a: Mix(m, Use(s), Use(replace(a, token="*m"))), "both attributes answer to"),
    "wrong kind": (lambda m, s, a: Mix(m, Use(a)), "kind 'appearance' was given as shape"),
    "concept as appearance": (
        lambda m, s, a: Mix(m, None, Use(replace(s, kind="concept"))),
        "given as appearance",
    ),
    "token of another width": (lambda m, s, a: draw(Mix(m, Use(replace(s, embeddings=NARROW)))), "7 wide"),
    "tensor of another size": (
        lambda m, s, a: draw(Mix(m, Use(replace(s, delta={next(iter(s.delta)): torch.zeros(5)})))),
        "does not have",
    ),
    "tensor of another model": (
        lambda m, s, a: draw(Mix(m, Use(replace(s, delta={"input_blocks.99.0.bias": torch.zeros(5)})))),
        "not have",
    ),
    "strength": (lambda m, s, a: Use(s, 9.0), "strength of 9"),
    "strength nan": (lambda m, s, a: Use(s, float("nan")), "strength of nan"),
    "range": (lambda m, s, a: Use(s, start=0.6, end=0.5), "schedule range"),
    "range beyond": (lambda m, s, a: Use(s, end=1.5), "schedule range"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_mixed_is_refused_in_one_sentence(case, model, shape, appearance):
    act, words = WRONG[case]
    with pytest.raises(ESCDiffError, match=words) as caught:
        act(model, shape, appearance)
    assert "\n" not in str(caught.value)


def test_the_schedule_is_cut_where_attributes_begin_and_end(shape, appearance):
    def parts(*uses):
        return [
            (start, end, [u.attribute.kind for u in active]) for start, end, active in schedule_parts(uses)
        ]

    assert parts() == [(0.0, 1.0, [])]
    assert parts(Use(shape), Use(appearance)) == [(0.0, 1.0, ["shape", "appearance"])]
    assert parts(Use(shape, end=0.5), Use(appearance, start=0.5)) == [
        (0.0, 0.5, ["shape"]),
        (0.5, 1.0, ["appearance"]),
    ]
    assert parts(Use(shape, start=0.3, end=0.3)) == [(0.0, 1.0, [])], "no time to act in"
    assert not Use(shape, end=0.0).acts_at(0.0) and Use(
        shape, end=0.5).acts_at(0.5) and not Use(shape, start=0.5).acts_at(0.5)
