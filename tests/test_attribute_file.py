"""The attribute file: what is saved is what is loaded, what is unsound is never written, and a disk that is
full loses nothing."""

import json
import os
import resource
from dataclasses import fields, replace

import pytest
import torch
from attribute_zoo import ATTENTION, CONV, DELTAS, PIXEL, make, noise

from escdiff_core.attribute import Attribute
from escdiff_core.attribute import header as header_module
from escdiff_core.attribute.tensors import differences
from escdiff_core.attribute.told import in_words
from escdiff_core.errors import ESCDiffError


def equal(a, b):
    for name in ("embeddings", "delta"):
        one, two = getattr(a, name), getattr(b, name)
        assert list(one) == list(two)
        for key in one:
            assert one[key].dtype == two[key].dtype and one[key].device == two[key].device
            assert torch.equal(one[key], two[key])
    for name in {f.name for f in fields(a)} - {"embeddings", "delta"}:
        assert getattr(a, name) == getattr(b, name)
    return True


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("form", DELTAS)
def test_loading_gives_what_quantised_gives(form, path):
    attribute = make(form)
    size = attribute.save(path)
    assert size == path.stat().st_size and attribute.form == form
    loaded = Attribute.load(path)
    assert equal(loaded, attribute.quantised()) and equal(loaded.quantised(), loaded)
    assert loaded.embeddings["clip_l"].dtype == torch.float32
    assert {t.dtype for n, t in loaded.delta.items() if "alpha" not in n} <= {torch.float16}


@pytest.mark.parametrize("form", DELTAS)
def test_equal_content_gives_equal_bytes(form, tmp_path):
    attribute = make(form)
    turned = {name: dict(reversed(getattr(attribute, name).items())) for name in ("delta", "extra")}
    shuffled = replace(attribute, **turned)
    attribute.save(tmp_path / "1.safetensors")
    shuffled.save(tmp_path / "2.safetensors")
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


def test_a_field_of_a_later_version_survives(path):
    make(extra={"licence": "CC0"}).save(path)
    loaded = Attribute.load(path)
    loaded.save(path)
    assert Attribute.load(path).extra == {"licence": "CC0"}


def test_lora_and_full_mean_the_same_difference():
    delta = dict(differences(DELTAS["lora"]))
    up, down = DELTAS["lora"][f"{ATTENTION}.lora_up.weight"], DELTAS["lora"][f"{ATTENTION}.lora_down.weight"]
    assert torch.allclose(delta[f"{ATTENTION}.weight"], 1.1 / 2 * up @ down)
    up, down = DELTAS["lora"][f"{CONV}.lora_up.weight"], DELTAS["lora"][f"{CONV}.lora_down.weight"]
    image = noise(1, 3, 9, 9)
    two_steps = torch.nn.functional.conv2d(torch.nn.functional.conv2d(image, down), up)
    assert torch.allclose(torch.nn.functional.conv2d(image, delta[f"{CONV}.weight"]), two_steps, atol=1e-5)


def test_tensors_that_share_memory_or_are_views_can_be_saved(path):
    shared = torch.tensor(2.0)
    delta = {**DELTAS["lora"], f"{ATTENTION}.alpha": shared, f"{CONV}.alpha": shared}
    make(delta=delta, embeddings={"clip_l": noise(16, 2).T}).save(path)
    assert Attribute.load(path).embeddings["clip_l"].shape == (2, 16)


def test_base_model_is_checked():
    make().check_base("f" * 64)
    with pytest.raises(ESCDiffError, match="another base model"):
        make().check_base("e" * 64)


def test_an_attribute_of_the_first_pocket_model_says_so():
    first = "9304afb3afe2c39fdd8f0fb50898832818989c6db4ed8abcf32cd1df8fbd0600"
    with pytest.raises(
        ESCDiffError, match=r"learned on the pocket model of ESCDiff 0\.4\.0, which is no longer shipped"
    ):
        replace(make(), base_fingerprint=first).check_base("e" * 64)


@pytest.mark.parametrize("form", DELTAS)
def test_describe_is_json_without_tensors(form):
    told = make(form).describe()
    assert json.loads(json.dumps(told)) == told
    assert told["form"] == form and told["token_vectors"] == {"clip_l": [2, 16]} and told["kind"] == "shape"
    assert (told["delta_norm"] > 0) == (form != "none") and told["ranks"] == ([2] if form == "lora" else [])


@pytest.mark.parametrize("form", DELTAS)
def test_an_attribute_in_words_is_short_lines_with_what_matters(form):
    made = make(form)
    lines = in_words(made)
    trained = {"full": "whole weights", "lora": "LoRA, rank 2", "none": "the token alone"}[form]
    assert lines[0] == "Shape: write *m in prompts" and any(
        line.startswith(f"Trained: {trained}") for line in lines
    )
    text = "\n".join(lines)
    assert (
        made.recipe in text
        and f"{made.steps} steps, seed {made.seed}" in text
        and "token of 2 vectors" in text
    )
    assert made.base_fingerprint[:12] in lines[-1] and max(map(len, lines)) <= 60 and len(lines) <= 7
    assert in_words(replace(made, kind="appearance"))[0] == "Look: write *m in prompts"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "colour"}, "known: shape"),
        ({"token": "two words"}, "without spaces"),
        ({"token": ""}, "without spaces"),
        ({"word": "x" * 500}, "word"),
        ({"steps": True}, "steps"),
        ({"losses": {"last": float("nan")}}, "losses"),
        ({"thumbnail": b"GIF89a"}, "PNG"),
        ({"thumbnail": PIXEL + bytes(1 << 20)}, "PNG"),
        ({"extra": {"seed": 4}}, "name of a field"),
        ({"extra": {"a": object()}}, "JSON"),
        ({"extra": {"a": float("inf")}}, "JSON"),
        ({"embeddings": {"t5": noise(1, 4)}}, "known text encoders"),
        ({"embeddings": {"clip_l": noise(4)}}, r"\(tokens, width\)"),
        ({"embeddings": {"clip_l": noise(1, 4), "clip_g": noise(2, 4)}}, "the same number"),
        ({"embeddings": {"clip_l": noise(90, 4)}}, "at most 75"),
        ({"embeddings": {"clip_l": noise(5000, 4)}, "layout": "layers+stages"}, "at most 4096"),
        ({"embeddings": {"clip_l": torch.full((1, 4), torch.nan)}}, "NaN"),
        ({"embeddings": {}, "delta": {}}, "nothing to keep"),
        ({"delta": {"out.2.weight": torch.full((2, 2), 1e5)}}, "65504"),
        ({"delta": {"out.2.weight": torch.full((2, 2), torch.inf)}}, "infinite"),
        ({"delta": {"out.2.weight": torch.zeros(0, 2)}}, "which no weight has"),
        ({"delta": {"../out.2.weight": noise(2, 2)}}, "not the name"),
        ({"delta": {"out.2/weight": noise(2, 2)}}, "not the name"),
        ({"delta": {"out.2.gain": noise(2)}}, "does not fit"),
        ({"delta": {**DELTAS["full"], **DELTAS["lora"]}}, "never both"),
        ({"delta": {"out.2.lora_up.weight": noise(4, 2)}}, "lacks one"),
        ({"delta": {"out.2.alpha": torch.tensor(1.0)}}, "lacks one"),
        (
            {"delta": {"out.2.lora_up.weight": noise(4, 2), "out.2.lora_down.weight": noise(3, 4)}},
            "do not fit each other",
        ),
    ],
)
def test_unsound_contents_are_never_written(changes, says, path):
    with pytest.raises(ESCDiffError, match=says):
        make(**changes).save(path)
    assert not list(path.parent.iterdir())


def test_a_full_disk_leaves_the_old_file_and_no_half_one(path):
    make("none").save(path)
    before = path.read_bytes()
    large = make(delta={"out.2.weight": noise(300, 300)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # the system then refuses to write beyond
    try:
        with pytest.raises(ESCDiffError, match=r"cannot write .*larger than this disk") as caught:
            large.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_no_space_is_said_in_words(path, monkeypatch):
    def full(tensors, name, metadata):
        name.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("escdiff_core.files.save_file", full)
    with pytest.raises(ESCDiffError, match="no space left on the disk; free some"):
        make().save(path)
    assert not list(path.parent.iterdir())


def test_paths_that_cannot_be_written_are_said_in_words(tmp_path):
    with pytest.raises(ESCDiffError, match="does not end in"):
        make().save(tmp_path / "a.ckpt")
    (tmp_path / "d.safetensors").mkdir()
    with pytest.raises(ESCDiffError, match="is a folder"):
        make().save(tmp_path / "d.safetensors")
    (tmp_path / "file").write_text("")
    with pytest.raises(ESCDiffError, match="cannot write"):
        make().save(tmp_path / "file" / "a.safetensors")


def test_new_folders_are_made_and_the_file_has_the_usual_rights(tmp_path):
    path = tmp_path / "new" / "a.safetensors"
    make().save(path)
    (tmp_path / "plain").write_text("")
    assert os.stat(path).st_mode == os.stat(tmp_path / "plain").st_mode


def test_the_header_limit_leaves_room_for_every_tensor_of_sdxl(path):
    assert header_module.LARGEST_HEADER > 8000 * 200
