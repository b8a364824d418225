"""Attribute files that are damaged, lie, or are something else: each gets one sentence, and nothing of it is
used."""

import json
import pickle
import struct
from dataclasses import replace

import pytest
import torch
from attribute_zoo import ATTENTION, CONV, PIXEL, make, noise
from safetensors.torch import save_file

from escdiff_core.attribute import Attribute
from escdiff_core.attribute.stored import FORMAT_VERSION, METADATA_KEY
from escdiff_core.errors import ESCDiffError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.safetensors"


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
    "overlap": (
        lambda h: h[WEIGHT].update(data_offsets=h[f"delta.{CONV}.weight"]["data_offsets"]),
        "does not fill",
    ),
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


def test_a_weight_without_a_size_is_refused():
    attribute = make()
    with pytest.raises(ESCDiffError, match="which no weight has"):
        replace(attribute, delta={**attribute.delta, "out.0.bias": torch.tensor(1.0)}).quantised()


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
    path.write_bytes(
        struct.pack("<Q", padded) + raw[8 : 8 + length] + b" " * (padded - length) + raw[8 + length :]
    )
    assert path.read_bytes()[0] == 0x80 and Attribute.load(path).kind == "shape"
