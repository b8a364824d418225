"""Diffusers folders: equal to the single file, also in the forms found on the hub; a damaged one is
refused."""

import json

import pytest
import torch
from model_zoo import OWN, POCKET, halved, outputs, random_modules
from safetensors.torch import load_file, save_file

from escdiff_core.errors import ESCDiffError
from escdiff_core.families.load import load_model
from escdiff_core.families.save import write_checkpoint
from escdiff_core.model.tokenizer import build_tokenizer

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(scope="module")
def pocket_modules():
    return halved(random_modules(POCKET))


def drop(path, part):
    """Remove the tensors with ``part`` in their names from a file."""
    save_file({n: t for n, t in load_file(path).items() if part not in n}, path, metadata={"format": "pt"})


@pytest.fixture
def folder(pocket_modules, tmp_path):
    unet, vae, text_encoder = pocket_modules
    for name, part in (("unet", unet), ("vae", vae), ("text_encoder", text_encoder)):
        part.save_pretrained(tmp_path / name)
    build_tokenizer(OWN["tokenizer"]).save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler/scheduler_config.json").write_text(
        json.dumps({"_class_name": "X", **OWN["scheduler"]})
    )
    return tmp_path


def test_diffusers_folder_equals_the_single_file(folder, pocket_modules, capfd):
    write_checkpoint(folder / "single.safetensors", *pocket_modules, OWN)
    capfd.readouterr()
    model, single = load_model(folder, device="cpu"), load_model(folder / "single.safetensors", device="cpu")
    assert capfd.readouterr() == ("", "")
    assert model.fingerprint == single.fingerprint
    assert model.schedule == single.schedule and model.native_size == single.native_size
    for got, want in zip(
        outputs(model.unet, model.vae, model.text_encoder),
        outputs(single.unet, single.vae, single.text_encoder),
        strict=True,
    ):
        assert torch.equal(got, want)
    assert (
        model.tokenizer("a red star of heart").input_ids == single.tokenizer("a red star of heart").input_ids
    )


def test_published_folders_load_too(folder):
    """As on the hub: text_model. in the names, position_ids, an fp16 variant, vocab.json and merges.txt."""
    expected = load_model(folder, device="cpu")
    path = folder / "text_encoder/model.safetensors"
    tensors = {f"text_model.{n}": t for n, t in load_file(path).items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(tensors, path.with_name("model.fp16.safetensors"), metadata={"format": "pt"})
    path.unlink()
    for part in ("unet", "vae"):
        path = folder / part / "diffusion_pytorch_model.safetensors"
        path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    (folder / "tokenizer/vocab.json").write_text(json.dumps(OWN["tokenizer"]["vocab"]))
    (folder / "tokenizer/merges.txt").write_text("\n".join(["#version: 0.2", *OWN["tokenizer"]["merges"]]))
    model = load_model(folder, device="cpu")
    ids = expected.tokenizer("a photo of a red heart").input_ids
    assert model.tokenizer("a photo of a red heart").input_ids == ids
    states = [m.text_encoder(torch.tensor([ids])).last_hidden_state for m in (model, expected)]
    assert torch.equal(*states) and model.fingerprint == expected.fingerprint


@pytest.mark.parametrize(
    "damage, words",
    [(lambda d: (d / "vae/config.json").unlink(), "lacks vae/config.json"),
     (lambda d: (d / "vae/config.json").write_text("{"), "cannot be loaded"),
     (lambda d: (d / "unet/config.json").write_text("{"), "not readable JSON"),
     (lambda d: (d / "unet/diffusion_pytorch_model.safetensors").unlink(), "pickles are never opened"),
     (lambda d: (d / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 50), "cannot be loaded"),
     (lambda d:
      (d / "scheduler/scheduler_config.json").write_text('{"prediction_type": "sample"}'), "prediction_type"),
     (lambda d: [f.unlink() for f in (d / "tokenizer").iterdir()], "neither vocab.json nor tokenizer.json"),
     (lambda d: build_tokenizer(None).save_pretrained(d / "tokenizer"), "different models"),
     (lambda d: drop(d / "unet/diffusion_pytorch_model.safetensors", "attn2"), "lacks 80 tensors"),
     (lambda d: drop(d / "vae/diffusion_pytorch_model.safetensors", "conv_in"), "lacks 4 tensors"),
     (lambda d: drop(d / "text_encoder/model.safetensors", "fc1"), "lacks 4 tensors"),])  # fmt: skip
def test_damaged_folder_is_refused(folder, damage, words, capfd):
    damage(folder)
    capfd.readouterr()
    with pytest.raises(ESCDiffError, match=words) as caught:
        load_model(folder, device="cpu")
    assert "\n" not in str(caught.value) and capfd.readouterr() == ("", "")
