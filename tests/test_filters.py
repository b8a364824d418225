"""Reference features and filters: the width of the papers, the token at its word, files that know their
model."""

import logging
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from method_zoo import WIDTH, disc, hash_of, tiny_model, write_tiny
from safetensors.torch import save_file

from escdiff_core.cli import main
from escdiff_core.errors import ESCDiffError
from escdiff_core.families import FAMILIES
from escdiff_core.families.load import load_model
from escdiff_core.learning.encoders import choose_encoder, choose_filter
from escdiff_core.learning.features import (
    ReferenceEncoder,
    load_encoder,
    reference_features,
    unet_feature_width,
)
from escdiff_core.learning.filters import AttributeFilter, load_filter, make_filter, save_filters
from escdiff_core.learning.learn import prepare
from escdiff_core.learning.recipes import RECIPES, find_recipe
from escdiff_core.learning.train_filters import Example, examples_from_folder, look_at, train_filter
from escdiff_core.model.autoencoder import image_to_latents
from escdiff_core.model.text import word_embedding
from escdiff_core.unet.words import merge, starting_word
from escdiff_core.worlds.pocket.examples import examples_from_world

SHAPE = find_recipe("escdiff-shape", batch_size=2, views=2, steps=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def features(model):
    return features_of(model)


@pytest.fixture
def encoder():
    """A stand-in for a vision tower: mean and spread of each channel."""
    class Tower(torch.nn.Module):
        def forward(self, pixels):
            return torch.cat([pixels.mean((2, 3)), pixels.std((2, 3))], 1)
    return ReferenceEncoder(Tower(), 32, (0.5,) * 3, (0.5,) * 3)


def features_of(model, reference=None, **options):
    image = (reference or disc()).image[None]
    return reference_features(model, image_to_latents(model, image), torch.from_numpy(image), **options)


def test_width_is_that_of_the_papers_for_sd15():
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(FAMILIES["sd15"].unet)
    assert unet_feature_width(SimpleNamespace(unet=unet)) == 10_880


def test_features_are_the_pooled_skips_and_the_middle(model, features):
    assert features.unet.shape == (unet_feature_width(model),) == (WIDTH * 13,)
    assert features.clip is None and not features.unet.requires_grad and features.unet.isfinite().all()


def test_features_are_deterministic_and_follow_picture_seed_and_timestep(model, features):
    assert torch.equal(features_of(model).unet, features.unet)
    others = (
        features_of(model, disc(colour=0.3)),
        features_of(model, seed=1),
        features_of(model, timestep=900),
    )
    assert not any(torch.equal(o.unet, features.unet) for o in others)
    for bad in (-1, 1000):
        with pytest.raises(ESCDiffError, match="between 0 and 999"):
            features_of(model, timestep=bad)


def test_the_encoder_is_optional_and_the_log_says_so(model, encoder, caplog):
    with caplog.at_level(logging.INFO):
        features_of(model)
    assert "UNet's features alone" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        seen = features_of(model, encoder=encoder)
    assert seen.clip.shape == (6,) and seen.clip.norm() == pytest.approx(1) and not caplog.text


def test_several_references_are_averaged_to_one_embedding_of_unit_norm(model, encoder):
    images = torch.stack([torch.from_numpy(disc(colour=c).image) for c in (0.2, 0.9)])
    seen = reference_features(model, image_to_latents(model, images), images, encoder=encoder)
    assert seen.clip.norm() == pytest.approx(1)
    torch.testing.assert_close(seen.clip, F.normalize(encoder(images).mean(0), dim=0))


def test_a_fresh_filter_leaves_the_token_exactly_at_its_word(model, features, encoder):
    for tower in (None, encoder):
        tuner = prepare(model, [disc()], SHAPE, encoder=tower)
        assert not tuner.start.network(tuner.start.features.unet, tuner.start.features.clip).any()
        torch.testing.assert_close(
            tuner.vectors()["clip_l"][0], starting_word(model, "shape")["clip_l"], rtol=1e-6, atol=0
        )
    first, same = (make_filter(model, features, 7) for _ in range(2))
    assert all(torch.equal(p, same.state_dict()[n]) for n, p in first.state_dict().items())
    assert not torch.equal(first.from_unet[1].weight, make_filter(model, features, 8).from_unet[1].weight)


def test_one_piece_words_start_at_their_embedding_and_others_at_the_norm_of_their_pieces(model):
    torch.testing.assert_close(
        starting_word(model, "shape")["clip_l"], word_embedding(model.towers[0], "shape")[0]
    )
    pieces = word_embedding(model.towers[0], "qwzxj")
    assert len(pieces) > 1 and starting_word(model, "qwzxj")["clip_l"].norm() == pytest.approx(
        float(pieces.norm(dim=1).mean())
    )


@pytest.mark.parametrize("shape", [(WIDTH,), (3, WIDTH)])
def test_the_norm_of_the_word_is_kept(shape):
    generator = torch.Generator().manual_seed(0)
    word = torch.randn(WIDTH, generator=generator)
    merged = merge(word, 50 * torch.randn(shape, generator=generator))
    torch.testing.assert_close(merged.norm(dim=-1), word.norm().expand(shape[:-1]))


def test_the_norm_is_kept_while_token_and_filter_train(model):
    tuner = prepare(
        model, [disc()],
        find_recipe("escdiff-appearance", batch_size=2, views=2, steps=2, lr_token=0.5, warmup_steps=0,
                    lr_filter=0.5))
    start = tuner.vectors()["clip_l"].detach()
    tuner.run()
    assert (
        not torch.allclose(tuner.vectors()["clip_l"], start)
        and tuner.start.network.last.weight.abs().sum() > 0
    )
    assert float(tuner.vectors()["clip_l"].norm().detach()) == pytest.approx(
        float(tuner.start.words["clip_l"].norm()), rel=1e-5
    )


def test_a_given_filter_is_frozen_and_sets_the_start(model, features):
    network = make_filter(model, features).requires_grad_(False)
    torch.nn.init.normal_(network.last.weight, std=0.5)
    before = {n: p.clone() for n, p in network.state_dict().items()}
    tuner = prepare(model, [disc()], SHAPE, network=network)
    assert (
        not torch.allclose(tuner.vectors()["clip_l"][0], tuner.start.words["clip_l"])
        and not tuner.start.trains
    )
    tuner.run()
    assert all(torch.equal(p, before[n]) for n, p in network.state_dict().items())


@pytest.fixture
def filters(model, features):
    made = {kind: make_filter(model, features, seed) for seed, kind in enumerate(("shape", "appearance"))}
    for network in made.values():
        torch.nn.init.normal_(network.last.weight)
    return made


def test_filters_come_back_from_their_file_with_their_scale(model, features, filters, tmp_path):
    path = tmp_path / "filters.safetensors"
    save_filters(filters, path, model.fingerprint, 0.25)
    first = path.read_bytes()
    save_filters(filters, path, model.fingerprint, 0.25)
    assert path.read_bytes() == first and [p.name for p in tmp_path.iterdir()] == [path.name]
    for kind, network in filters.items():
        loaded = load_filter(path, kind, model.fingerprint)
        halved = {n: p.half().float() for n, p in network.state_dict().items()}
        assert loaded.scale == 0.25 and all(torch.equal(p, loaded.state_dict()[n]) for n, p in halved.items())
    loaded = choose_filter(path, SHAPE, model, None)
    assert not any(p.requires_grad for p in loaded.parameters())
    tuner = prepare(model, [disc()], SHAPE, network=loaded)
    offset = loaded(tuner.start.features.unet, None) * tuner.start.words["clip_l"].norm()
    # the scale it was trained with
    torch.testing.assert_close(
        tuner.vectors()["clip_l"][0], merge(tuner.start.words["clip_l"], 0.25 * offset)
    )


def garbled(path, target):
    save_file({"shape.last.weight": torch.zeros(2, 2)}, target, {"escdiff.filters": '{"kinds": ["shape"]}'})


BAD = {
    "missing": (lambda good, bad: None, "no filter file"),
    "truncated": (lambda good, bad: bad.write_bytes(good.read_bytes()[:5000]), "not a whole filter file"),
    "other file": (lambda good, bad: save_file({"a": torch.zeros(1)}, bad),
                   "holds no shape filter"), "garbled": (garbled, "not a whole filter file"),
    "no table": (lambda good, bad: save_file({"a": torch.zeros(1)}, bad, {"escdiff.filters": "[]"}),
                 "not a whole"),
    "no json": (lambda good, bad: save_file({"a": torch.zeros(1)}, bad, {"escdiff.filters": "{"}),
                "not a whole"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_filter_files_are_refused(case, model, filters, tmp_path):
    damage, words = BAD[case]
    save_filters(filters, tmp_path / "good.safetensors", model.fingerprint, 0.1)
    damage(tmp_path / "good.safetensors", tmp_path / "bad.safetensors")
    with pytest.raises(ESCDiffError, match=words):
        load_filter(tmp_path / "bad.safetensors", "shape", model.fingerprint)


def test_filters_of_another_model_or_encoder_are_refused(model, filters, encoder, tmp_path):
    path = tmp_path / "filters.safetensors"
    save_filters(filters, path, "f" * 64, 0.1)
    with pytest.raises(ESCDiffError, match="another base model"):
        load_filter(path, "shape", model.fingerprint)
    seeing = AttributeFilter(WIDTH * 13, 9, WIDTH)
    with pytest.raises(ESCDiffError, match="width 9, this one's is 6"):
        prepare(model, [disc()], SHAPE, encoder=encoder, network=seeing)
    save_filters({"shape": seeing}, path, model.fingerprint, 0.1)
    with pytest.raises(ESCDiffError, match="OpenCLIP encoder"):
        choose_filter(path, SHAPE, model, None)


def test_other_models_than_the_pocket_get_only_what_they_are_given(model):
    assert choose_encoder("auto", model) is None is choose_encoder("none", model)
    assert choose_filter(None, SHAPE, model, None) is None


def test_missing_and_wrong_vision_towers_say_where_they_looked(tmp_path, monkeypatch):
    import open_clip

    with pytest.raises(ESCDiffError, match=r"no vision tower at .*tower\.safetensors"):
        load_encoder(tmp_path / "tower.safetensors")
    (tmp_path / "tower.safetensors").write_text("no weights")
    # open_clip's own reading of the file, without a tower of 150 million weights to read it into
    monkeypatch.setattr(
        open_clip,
        "create_model",
        lambda _name, pretrained: open_clip.factory.load_checkpoint(torch.nn.Linear(1, 1), pretrained),
    )
    with pytest.raises(ESCDiffError, match=r"does not hold OpenCLIP's ViT-B-32"):
        load_encoder(tmp_path / "tower.safetensors")


def test_training_filters_moves_them_and_leaves_the_model(model, encoder):
    before = hash_of(model)
    examples = [
        Example(disc(colour=c).image, {"shape": "red"}, "on a red background") for c in (0.2, 0.5, 0.9)
    ]
    told = []
    seen = look_at(model, examples, 250, encoder, 2**64 - 1, progress=lambda *p: told.append(p))
    assert told == [(1, 3), (2, 3), (3, 3)]
    told.clear()
    made = [train_filter(model, seen, RECIPES["escdiff-shape"], 3, batch_size=2, seed=2**64 - 1,
                         progress=lambda *p: told.append(p)) for _ in range(2)]
    assert told[:3] == [(1, 3), (2, 3), (3, 3)] and made[0].last.weight.abs().sum() > 0
    assert all(torch.equal(p, made[1].state_dict()[n]) for n, p in made[0].state_dict().items())
    assert hash_of(model) == before


def test_examples_of_the_world_hold_nothing_held_out_and_folders_need_two_pictures(tmp_path):
    from escdiff_core.worlds.pocket import patterns, shapes

    examples = examples_from_world(5, 0)
    words = {word for e in examples for text in e.rest.values() for word in text.split()}
    assert len(words) >= 10 and not words & {*shapes.HELD_OUT, *patterns.HELD_OUT}
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ESCDiffError, match="picture"):
            examples_from_folder(folder, 64)


def test_the_command_trains_filters_on_a_folder_that_learning_takes(tmp_path):
    from PIL import Image

    checkpoint = write_tiny(tmp_path / "tiny.safetensors")
    for i in range(2):
        Image.fromarray((disc(colour=0.3 + 0.4 * i).image * 255).astype("uint8")).save(tmp_path / f"{i}.png")
    out = tmp_path / "made" / "filters.safetensors"
    assert main(["train-filters", "--images", str(tmp_path), "--out", str(out), "--model", str(checkpoint),
                 "--steps", "1", "--device", "cpu"]) == 0
    model = load_model(checkpoint, "cpu")
    assert {load_filter(out, kind, model.fingerprint).scale for kind in ("shape", "appearance")} == {0.1}
