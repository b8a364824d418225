"""Checkpoints: written, loaded, equal; every bad file refused in one sentence; never a network request."""

import json
import struct
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from model_zoo import OWN, POCKET, REDUCED_SD15, SD15, halved, outputs, random_modules
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from escdiff_core import registry
from escdiff_core.errors import ESCDiffError
from escdiff_core.families.load import load_model
from escdiff_core.families.recognise import CONFIG_KEY
from escdiff_core.families.save import write_checkpoint
from escdiff_core.model.diffusion import fingerprint, resolve_device
from escdiff_core.model.tokenizer import build_tokenizer

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(scope="module")
def pocket_modules():
    return random_modules(POCKET)


@pytest.fixture(scope="module")
def pocket_file(pocket_modules, tmp_path_factory):
    path = tmp_path_factory.mktemp("pocket") / "pocket.safetensors"
    write_checkpoint(path, *pocket_modules, OWN)
    return path


@pytest.fixture(scope="module")
def sd15_modules():
    return random_modules(REDUCED_SD15, seed=1)


@pytest.fixture(scope="module")
def sd15_file(sd15_modules, tmp_path_factory):
    path = tmp_path_factory.mktemp("sd15") / "sd15.safetensors"
    write_checkpoint(path, *sd15_modules, None)
    return path


@pytest.fixture(scope="module")
def sd15_model(sd15_file):
    return load_model(sd15_file, device="cpu")


def test_pocket_round_trip_is_exact(pocket_file, pocket_modules):
    model = load_model(pocket_file, device="cpu")
    expected = outputs(*halved(pocket_modules))
    for got, want in zip(outputs(model.unet, model.vae, model.text_encoder), expected, strict=True):
        assert torch.equal(got, want)
    assert (
        model.native_size == 64 and model.schedule.beta_end == 0.03 and model.vae.config.scaling_factor == 0.7
    )
    assert model.tokenizer("a red star").input_ids[1:-1] == [OWN["tokenizer"]["vocab"][w] for w in
                                                             ("a</w>", "red</w>", "star</w>")]  # fmt: skip
    assert not any(p.requires_grad for p in model.unet.parameters()) and not model.unet.training


def test_file_in_the_sd15_layout_loads_without_a_configuration(sd15_model, sd15_modules):
    model = sd15_model
    expected = outputs(*halved(sd15_modules))
    for got, want in zip(outputs(model.unet, model.vae, model.text_encoder), expected, strict=True):
        assert torch.equal(got, want)
    assert model.family == "sd15" and model.native_size == 512 and model.schedule.beta_end == 0.012
    assert model.tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert [getattr(model.tokenizer, f"{w}_token_id") for w in ("bos", "eos", "pad")] == [49406, 49407, 49407]
    assert len(model.tokenizer) == SD15.towers[0].config["vocab_size"]


def test_layout_is_the_original_one(pocket_file):
    with safe_open(pocket_file, framework="pt") as file:
        shapes = {n: file.get_slice(n).get_shape() for n in file.keys()}  # noqa: SIM118
        assert json.loads(file.metadata()[CONFIG_KEY])["unet"]["attention_head_dim"] == [1, 2, 3, 4]
        assert file.get_tensor("model.diffusion_model.out.2.bias").dtype is torch.float16
    assert {n.split(".")[0] for n in shapes} == {"model", "first_stage_model", "cond_stage_model"}
    assert shapes["first_stage_model.encoder.mid.attn_1.q.weight"] == [64, 64, 1, 1]
    assert "cond_stage_model.transformer.text_model.final_layer_norm.weight" in shapes


def test_diffusers_own_loader_reads_the_same_unet(pocket_file, pocket_modules, tmp_path):
    pocket_modules[0].save_config(tmp_path / "unet")
    theirs = UNet2DConditionModel.from_single_file(
        str(pocket_file), config=str(tmp_path), subfolder="unet", local_files_only=True
    )
    ours = load_model(pocket_file, device="cpu").unet
    assert all(torch.equal(t, theirs.state_dict()[n]) for n, t in ours.state_dict().items())


def rewrite(path, target, tensors=None, metadata=None):
    """Copy a checkpoint with other tensors or metadata."""
    with safe_open(path, framework="pt") as file:
        old = file.metadata()
    save_file(
        load_file(path) if tensors is None else tensors,
        target,
        metadata=old if metadata is None else metadata,
    )
    return target


def test_the_usual_words_are_built_once_for_all_models_that_end_a_prompt_alike():
    first, again, other = (build_tokenizer(None, padding=padding) for padding in (None, None, "!"))
    assert again is first and other is not first
    assert (first.pad_token, other.pad_token) == ("<|endoftext|>", "!")


def test_leftovers_of_real_checkpoints_are_ignored(sd15_file, sd15_model, tmp_path, caplog):
    tensors = load_file(sd15_file)
    prefix = "cond_stage_model.transformer."
    # as some merging tools write
    tensors = {n.replace(prefix + "text_model.", prefix): t for n, t in tensors.items()}
    tensors |= {"betas": torch.zeros(3), "cond_stage_model.logit_scale": torch.ones(())}
    tensors[prefix + "embeddings.position_ids"] = torch.arange(77.0)[None]
    tensors |= {f"model_ema.x{i}": torch.zeros(1) for i in range(120)}
    model = load_model(rewrite(sd15_file, tmp_path / "old.safetensors", tensors, {}), device="cpu")
    assert not caplog.records and model.fingerprint == sd15_model.fingerprint
    ids = torch.arange(77)[None]
    assert torch.equal(
        model.text_encoder(ids).last_hidden_state, sd15_model.text_encoder(ids).last_hidden_state
    )


def header_lie(source, target):
    """Point the first tensor beyond the end of the file."""
    data = source.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    name = next(n for n in header if n != "__metadata__")
    header[name]["data_offsets"][1] += 1 << 40
    text = json.dumps(header).encode()
    target.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


BAD_FILES = {
    "truncated": (lambda s, t: t.write_bytes(s.read_bytes()[:100_000]),
                  "cannot be read"), "empty": (lambda s, t: t.write_bytes(b""), "cannot be read"),
    "text": (lambda s, t: t.write_text("not a model at all"), "cannot be read"),
    "giant header": (lambda s, t: t.write_bytes(struct.pack("<Q", 1 << 60) + b"{}"), "cannot be read"),
    "lying header": (header_lie, "cannot be read"), "half the tensors": (
        lambda s, t: rewrite(s, t, {n: v
                                    for n, v in load_file(s).items()
                                    if "attn1" not in n}), "lacks"),
    "wrong shape": (lambda s, t: rewrite(s, t,
                                         load_file(s) | {"model.diffusion_model.out.0.bias": torch.zeros(5)}),
                    "has shape"), "garbled metadata": (lambda s, t: rewrite(s, t, metadata={CONFIG_KEY: "{"}),
                                                       "not readable JSON"),
    "incomplete metadata": (lambda s, t: rewrite(s, t, metadata={CONFIG_KEY: "[]"}), "lacks or garbles"),
    "lying metadata": (lambda s, t: rewrite(
        s, t, metadata=
        {CONFIG_KEY: json.dumps(POCKET | {"unet": POCKET["unet"] | {"block_out_channels": [10**9] * 4}})}),
                       "the tensors say"),
    "senseless metadata": (lambda s, t: rewrite(
        s, t, metadata={CONFIG_KEY: json.dumps(POCKET | {"unet": POCKET["unet"] | {"norm_num_groups": 7}})}),
                           "no model can be built"),
    "too many tokenizer words": (lambda s, t: rewrite(
        s, t, metadata={
            CONFIG_KEY: json.dumps(
                POCKET | {"tokenizer": {"vocab": OWN["tokenizer"]["vocab"] | {"z": 128}, "merges": []}})
        }), "different models"), "garbled text encoder": (lambda s, t: rewrite(
            s, t, metadata=
            {CONFIG_KEY: json.dumps(POCKET | {"text_encoder": POCKET["text_encoder"] | {"hidden_act": 5}})}),
                                                          "no model can be built"),
    "giant table": (lambda s, t: rewrite(
        s, t, metadata=
        {CONFIG_KEY: json.dumps(POCKET | {"unet": POCKET["unet"] | {"num_class_embeds": 10**14}})}),
                    "no model can be built"),
    "no tokenizer words": (lambda s, t: rewrite(
        s, t, metadata={CONFIG_KEY: json.dumps(POCKET | {"tokenizer": {"vocab": {"a": 0}, "merges": []}})}),
                           "tokenizer must hold"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_refused_in_one_sentence(case, pocket_file, tmp_path):
    damage, words = BAD_FILES[case]
    damage(pocket_file, tmp_path / "bad.safetensors")
    with pytest.raises(ESCDiffError, match=words) as caught:
        load_model(tmp_path / "bad.safetensors", device="cpu")
    assert "\n" not in str(caught.value) and "bad.safetensors" in str(caught.value)


@pytest.mark.parametrize("name, words", [
    ("absent.safetensors", "does not exist"),
    ("model.ckpt", "pickle"),
    (".", "is no diffusers model"),
])  # fmt: skip
def test_bad_path_is_refused(name, words, tmp_path):
    with pytest.raises(ESCDiffError, match=words):
        load_model(tmp_path / name, device="cpu")


def test_absent_pocket_says_how_to_get_it(monkeypatch, tmp_path):
    moved = replace(registry.find_world("pocket"), checkpoint=tmp_path / "pocket.safetensors")
    monkeypatch.setattr(registry, "worlds", lambda: {"pocket": moved})
    with pytest.raises(ESCDiffError, match=r"install the pack again.*or give --model PATH"):
        load_model("pocket")


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cpu:0", "", "cuda:", "cuda:99", "mps"])
def test_unknown_device_is_refused(device):
    with pytest.raises(ESCDiffError, match="device"):
        resolve_device(device)


def test_failed_write_leaves_the_old_file(pocket_file, pocket_modules, tmp_path, monkeypatch):
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"old")

    def full_disk(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("escdiff_core.files.save_file", full_disk)
    with pytest.raises(ESCDiffError, match="No space left"):
        write_checkpoint(target, *pocket_modules, OWN)
    assert [f.name for f in tmp_path.iterdir()] == ["model.safetensors"] and target.read_bytes() == b"old"


def test_fingerprint_is_of_the_weights_not_of_the_container(pocket_file, pocket_modules, tmp_path):
    halved(pocket_modules)
    write_checkpoint(tmp_path / "fp32.safetensors", *pocket_modules, OWN, dtype=torch.float32)
    model = load_model(tmp_path / "fp32.safetensors", device="cpu")
    assert model.fingerprint == load_model(pocket_file, device="cpu", dtype=torch.float16).fingerprint
    state = model.unet.state_dict()
    state["conv_in.bias"] = state["conv_in.bias"] + 1
    assert fingerprint(state, model.unet.config) != model.fingerprint
