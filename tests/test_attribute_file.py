"""The attribute file: what is saved is what is loaded, and everything that is no sound attribute gets one sentence."""

import json
import os
import pickle
import resource
import struct
from dataclasses import fields, replace

import pytest
import torch
from safetensors.torch import save_file

from escdiff_core.attribute import Attribute
from escdiff_core.attribute import header as header_module
from escdiff_core.attribute.file import FORMAT_VERSION, METADATA_KEY
from escdiff_core.attribute.tensors import differences
from escdiff_core.errors import ESCDiffError

PIXEL = b"\x89PNG\r\n\x1a\n" + b"not a real picture, but the file only looks at the start"
ATTENTION, CONV = "input_blocks.1.1.transformer_blocks.0.attn2.to_q", "input_blocks.1.0.in_layers.2"


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


DELTAS = {
    "none": {},
    "full": {f"{ATTENTION}.weight": noise(8, 6), f"{CONV}.weight": noise(4, 3, 3, 3), f"{CONV}.bias": noise(4)},
    "lora": {
        f"{ATTENTION}.lora_up.weight": noise(8, 2),
        f"{ATTENTION}.lora_down.weight": noise(2, 6),
        f"{ATTENTION}.alpha": torch.tensor(1.1),
        f"{CONV}.lora_up.weight": noise(4, 2, 1, 1),
        f"{CONV}.lora_down.weight": noise(2, 3, 3, 3),
    },
}


def make(form="full", **changes):
    attribute = Attribute(
        kind="shape", token="*m", word="shape", embeddings={"clip_l": noise(2, 16)}, delta=DELTAS[form],
        blocks=("down_blocks.0", "down_blocks.1"), recipe="escdiff-shape", recipe_hash="ab12", preset="paper",
        base_fingerprint="f" * 64, steps=100, seed=3, losses={"last": 0.12345678901234567}, reference_hash="cd",
        thumbnail=PIXEL, extra={"describe": "on a yellow table", "später": {"deep": [1, 2.5, None]}},
    )
    return replace(attribute, **changes)


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


@pytest.mark.parametrize("form", DELTAS)
def test_describe_is_json_without_tensors(form):
    told = make(form).describe()
    assert json.loads(json.dumps(told)) == told
    assert told["form"] == form and told["token_vectors"] == {"clip_l": [2, 16]} and told["kind"] == "shape"
    assert (told["delta_norm"] > 0) == (form != "none") and told["ranks"] == ([2] if form == "lora" else [])


@pytest.mark.parametrize(("changes", "says"), [
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
    ({"delta": {"out.2.weight": torch.zeros(0, 2)}}, "empty"),
    ({"delta": {"../out.2.weight": noise(2, 2)}}, "not the name"),
    ({"delta": {"out.2/weight": noise(2, 2)}}, "not the name"),
    ({"delta": {"out.2.gain": noise(2)}}, "does not fit"),
    ({"delta": {**DELTAS["full"], **DELTAS["lora"]}}, "never both"),
    ({"delta": {"out.2.lora_up.weight": noise(4, 2)}}, "lacks one"),
    ({"delta": {"out.2.alpha": torch.tensor(1.0)}}, "lacks one"),
    ({"delta": {"out.2.lora_up.weight": noise(4, 2), "out.2.lora_down.weight": noise(3, 4)}}, "do not fit each other"),
])
def test_unsound_contents_are_never_written(changes, says, path):
    with pytest.raises(ESCDiffError, match=says):
        make(**changes).save(path)
    assert not list(path.parent.iterdir())


def rewritten(path, change_header=None, change_data=None, metadata=None):
    """Rewrite a sound file with a changed header; ``metadata`` changes the attribute's own table."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    if metadata:
        table = json.loads(header["__metadata__"][METADATA_KEY])
        metadata(table)
        header["__metadata__"][METADATA_KEY] = json.dumps(table)
    if change_header:
        change_header(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + (change_data(data) if change_data else data))


def rename(old, new):
    def change(header):
        header[new] = header.pop(old)

    return change


WEIGHT = f"delta.{ATTENTION}.weight"
HEADER_LIES = {
    "hidden path": (rename(WEIGHT, "delta.../../etc/passwd"), "not the name"),
    "separator": (rename(WEIGHT, "delta.input_blocks/1.weight"), "not the name"),
    "foreign prefix": (rename(WEIGHT, "exec.me"), "no place"),
    "unknown encoder": (rename("embedding.clip_l", "embedding.clip_x"), "known text encoders"),
    "shape too large": (lambda h: h[WEIGHT].update(shape=[8, 7]), "does not fill"),
    "huge shape": (lambda h: h[WEIGHT].update(shape=[1 << 40, 1 << 40]), "does not fill"),
    "negative shape": (lambda h: h[WEIGHT].update(shape=[-8, -6]), "whole numbers"),
    "shape of texts": (lambda h: h[WEIGHT].update(shape=["8", "6"]), "whole numbers"),
    "offsets beyond": (lambda h: h[WEIGHT].update(data_offsets=[10_000_000, 10_000_096]), "overlaps"),
    "overlap": (lambda h: h[WEIGHT].update(data_offsets=h[f"delta.{CONV}.weight"]["data_offsets"]), "does not fill"),
    "unknown dtype": (lambda h: h[WEIGHT].update(dtype="F13"), "dtype"),
    "dtype is a list": (lambda h: h[WEIGHT].update(dtype=["F16"]), "dtype"),
    "other dtype": (lambda h: h[WEIGHT].update(dtype="BF16"), "needed: F16"),
    "entry is a list": (lambda h: h.update({WEIGHT: []}), "offsets"),
    "metadata is a list": (lambda h: h.update(__metadata__=[1]), "table of texts"),
    "giant metadata": (lambda h: h["__metadata__"].update(x="x" * (3 << 20)), "metadata is"),
    "giant header": (lambda h: h["__metadata__"].update(x="x" * (5 << 20)), "header is"),
    "no metadata": (lambda h: h.pop("__metadata__"), "not an attribute"),
    "garbage metadata": (lambda h: h["__metadata__"].update({METADATA_KEY: "{"}), "unusable"),
    "deep metadata": (lambda h: h["__metadata__"].update({METADATA_KEY: "[" * 100_000}), "unusable"),
}


@pytest.mark.parametrize("lie", HEADER_LIES)
def test_a_lying_header_is_refused_in_words(lie, path):
    change, says = HEADER_LIES[lie]
    make().save(path)
    rewritten(path, change)
    with pytest.raises(ESCDiffError, match=says) as caught:
        Attribute.load(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


METADATA_LIES = {
    "newer version": (lambda m: m.update(format_version=FORMAT_VERSION + 1), "update ESCDiff"),
    "no version": (lambda m: m.pop("format_version"), "unusable"),
    "version is a text": (lambda m: m.update(format_version="1"), "unusable"),
    "a field is missing": (lambda m: m.pop("recipe"), "recipe"),
    "unknown kind": (lambda m: m.update(kind="virus"), "known: shape"),
    "blocks is a text": (lambda m: m.update(blocks="abc"), "blocks"),
    "a number as text": (lambda m: m.update(seed="7"), "seed"),
    "losses is a list": (lambda m: m.update(losses=[1]), "losses"),
    "a loss beyond floats": (lambda m: m.update(losses={"last": 10**400}), "losses"),
    "thumbnail is no picture": (lambda m: m.update(thumbnail="AAAA"), "PNG"),
    "thumbnail is no base64": (lambda m: m.update(thumbnail="?"), "unusable"),
    "escape codes": (lambda m: m.update(recipe="\x1b[2J"), "recipe"),
}


@pytest.mark.parametrize("lie", METADATA_LIES)
def test_lying_metadata_is_refused_in_words(lie, path):
    change, says = METADATA_LIES[lie]
    make().save(path)
    rewritten(path, metadata=change)
    with pytest.raises(ESCDiffError, match=says):
        Attribute.load(path)


def test_numbers_that_are_not_finite_are_refused(path):
    make().save(path)
    rewritten(path, change_data=lambda data: b"\xff" * len(data))
    with pytest.raises(ESCDiffError, match="NaN"):
        Attribute.load(path)


@pytest.mark.parametrize("kept", [0, 5, 8, 9, 200, -1])
def test_a_truncated_file_is_refused(kept, path):
    make().save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ESCDiffError, match=r"empty|truncated|not a safetensors"):
        Attribute.load(path)


def test_bytes_after_the_tensors_are_refused(path):
    make().save(path)
    with path.open("ab") as file:
        file.write(b"#!/bin/sh")
    with pytest.raises(ESCDiffError, match="claim"):
        Attribute.load(path)


def test_a_name_that_occurs_twice_is_refused(path):
    text = b'{"a":{},"a":{}}'
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(ESCDiffError, match="twice"):
        Attribute.load(path)


def test_files_of_another_kind_are_named(path, tmp_path):
    with pytest.raises(ESCDiffError, match="does not exist"):
        Attribute.load(path)
    with pytest.raises(ESCDiffError, match="not a file"):
        Attribute.load(tmp_path)
    torch.save({"a": noise(3)}, path)
    with pytest.raises(ESCDiffError, match=r"zip archive.*pickle"):
        Attribute.load(path)
    for protocol in (2, 3, 4, 5):
        path.write_bytes(pickle.dumps({"a": list(range(100))}, protocol))
        with pytest.raises(ESCDiffError, match="is a pickle"):
            Attribute.load(path)
    path.write_bytes(PIXEL)
    with pytest.raises(ESCDiffError, match="is a picture"):
        Attribute.load(path)
    path.write_text("some text that is no file of tensors")
    with pytest.raises(ESCDiffError, match="not a safetensors"):
        Attribute.load(path)
    save_file({"lora_unet_x.lora_up.weight": noise(2, 2).bfloat16()}, path)
    with pytest.raises(ESCDiffError, match="a LoRA file, not an attribute"):
        Attribute.load(path)


def test_a_header_whose_length_looks_like_a_pickle_is_read(path):
    make().save(path)
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    padded = next(n for n in (0x0280, 0x0480, 0x0880, 0x0F80, 0x1280) if n >= length)
    path.write_bytes(struct.pack("<Q", padded) + raw[8 : 8 + length] + b" " * (padded - length) + raw[8 + length :])
    assert path.read_bytes()[0] == 0x80 and Attribute.load(path).kind == "shape"


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
