"""Exports, checked with diffusers itself: what the stock loaders make of the files is what the attribute
means."""

import copy
import json

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from model_zoo import POCKET, REDUCED_SD15, random_modules
from safetensors import safe_open
from safetensors.torch import load_file

from escdiff_core.attribute import Attribute
from escdiff_core.attribute.export import export_embedding, export_full, export_lora, truncated_svd
from escdiff_core.attribute.tensors import differences
from escdiff_core.errors import ESCDiffError
from escdiff_core.files import metadata_of
from escdiff_core.model.names import to_canonical, to_diffusers, unet_map
from escdiff_core.model.tokenizer import build_tokenizer

pytestmark = pytest.mark.usefixtures("no_network")

WIDTH = POCKET["text_encoder"]["hidden_size"]
NARROW = {
    **POCKET,
    "unet": {**POCKET["unet"], "block_out_channels": [32, 32, 64, 64], "attention_head_dim": 2},
}


@pytest.fixture(scope="module")
def modules():
    return random_modules(NARROW)


@pytest.fixture
def pipeline(modules):
    unet, vae, text_encoder = (copy.deepcopy(m) for m in modules)
    # diffusers counts words to place new ones, so the vocabulary must have no gaps, as CLIP's has none
    vocab = POCKET["tokenizer"]["vocab"]
    spare = {f"spare{i}</w>": i for i in range(128) if i not in vocab.values()}
    tokenizer = build_tokenizer({**POCKET["tokenizer"], "vocab": {**vocab, **spare}})
    return StableDiffusionPipeline(
        unet=unet, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer,
        scheduler=DDIMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "exported.safetensors"


def weights(unet):
    return to_canonical(unet.state_dict(), unet_map(unet.config))


def make(delta, **changes):
    vectors = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(7))
    return Attribute(
        **{
            "kind": "appearance", "token": "*a", "word": "appearance", "embeddings": {"clip_l": vectors},
            "delta": delta, "blocks": ("up_blocks.2",), "recipe": "escdiff-appearance", "recipe_hash": "1",
            "preset": "paper", "base_fingerprint": "b" * 64, "steps": 1, "seed": 0, **changes,
        })


def lora_delta(unet, ranks=(4,), alphas=(4.0,), start=""):
    """Factors for the linear layers and convolutions of the UNet whose names start so; ranks and alphas in
    turn."""
    generator, delta = torch.Generator().manual_seed(1), {}
    matrices = {
        n.removesuffix(".weight"): w for n, w in weights(unet).items() if w.ndim > 1 and n.startswith(start)
    }
    for i, (module, weight) in enumerate(matrices.items()):
        rank, tail = ranks[i % len(ranks)], (1,) * (weight.ndim - 2)
        scale = float(weight.std())  # large enough to be seen clearly in the output
        delta[f"{module}.lora_up.weight"] = (
            torch.randn(weight.shape[0], rank, *tail, generator=generator) * scale * 0.5
        )
        delta[f"{module}.lora_down.weight"] = torch.randn(rank, *weight.shape[1:], generator=generator) * 0.5
        delta[f"{module}.alpha"] = torch.tensor(alphas[i % len(alphas)])
    return delta


def full_delta(unet, rank):
    """A difference of exactly ``rank`` for the matrices of a few blocks, and of their norms and biases
    too."""
    generator, delta = torch.Generator().manual_seed(2), {}
    trained = ("input_blocks.1.", "input_blocks.4.", "input_blocks.6.", "output_blocks.2.",
               "output_blocks.11.")
    for name, weight in weights(unet).items():
        if not name.startswith(trained):
            continue
        if weight.ndim > 1:
            up = torch.randn(weight.shape[0], rank, generator=generator)
            down = torch.randn(rank, weight[0].numel(), generator=generator)
            delta[name] = (up @ down).reshape(weight.shape) * weight.std() * 0.2
        else:
            delta[name] = torch.randn(weight.shape, generator=generator) * 0.02
    return delta


def changed(unet, difference):
    """A copy of the UNet with a difference (canonical names) added: what an export must amount to."""
    unet = copy.deepcopy(unet)
    state = unet.state_dict()
    for name, tensor in to_diffusers(difference, unet_map(unet.config)).items():
        state[name] += tensor
    return unet


def output(unet):
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    context = torch.randn(2, 77, unet.config.cross_attention_dim, generator=generator)
    with torch.no_grad():
        return unet(latents, torch.tensor([321, 7]), encoder_hidden_states=context).sample


@pytest.mark.parametrize(("ranks", "alphas", "start"), [
    ((4,), (4.0,), ""), ((4,), (1.1,), "middle_block"), ((2, 4), (1.0, 4.0), "middle_block"),
])
def test_lora_through_diffusers_equals_base_plus_delta(ranks, alphas, start, pipeline, modules, path):
    attribute = make(lora_delta(modules[0], ranks, alphas, start)).quantised()
    report = export_lora(attribute, path, modules[0].config)
    assert (report.rank, report.dropped, report.size) == (4, (), path.stat().st_size) and report.error < 1e-6
    expected = output(changed(modules[0], dict(differences(attribute.delta))))
    pipeline.load_lora_weights(path, local_files_only=True)
    found = output(pipeline.unet)
    assert (expected - output(modules[0])).abs().max() > 0.01
    assert (found - expected).abs().max() <= 1e-4


def test_alphas_that_no_power_of_two_can_carry_cost_only_rounding(pipeline, modules, path):
    attribute = make(lora_delta(modules[0], (2, 4), (1.1, 3.3), "middle_block")).quantised()
    report = export_lora(attribute, path)
    assert 0 < report.error < 5e-4
    expected = output(changed(modules[0], dict(differences(attribute.delta))))
    pipeline.load_lora_weights(path, local_files_only=True)
    assert (output(pipeline.unet) - expected).norm() < 2e-3 * (expected - output(modules[0])).norm()


def test_full_delta_of_low_rank_survives_as_lora(pipeline, modules, path):
    delta = {name: d for name, d in full_delta(modules[0], rank=3).items() if d.ndim > 1}
    report = export_lora(make(delta), path, rank=4)  # SD 1.5's names serve the pocket's anatomy
    assert report.error < 2e-3 and report.dropped == ()
    expected = output(changed(modules[0], delta))
    pipeline.load_lora_weights(path, local_files_only=True)
    moved = (expected - output(modules[0])).norm()
    assert (output(pipeline.unet) - expected).norm() < 0.01 * moved


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_the_stated_error_is_the_true_one(rank, modules, path):
    difference = full_delta(modules[0], rank=12)
    attribute = make(difference).quantised()
    report = export_lora(attribute, path, modules[0].config, rank=rank)
    diffusers_names = {c: d for d, c in unet_map(modules[0].config).items()}
    written, missed = load_file(path), 0.0
    for name, exact in differences(attribute.delta):
        module = diffusers_names[name].rpartition(".")[0].replace(".", "_")
        up, down = (written.get(f"lora_unet_{module}.lora_{side}.weight") for side in ("up", "down"))
        kept = torch.zeros(())
        if exact.ndim > 1:
            kept = (up.float().flatten(1) @ down.float().flatten(1)).reshape(exact.shape)
        missed += float((exact - kept).square().sum())
    total = sum(float(d.square().sum()) for _, d in differences(attribute.delta))
    assert report.error == pytest.approx((missed / total) ** 0.5, rel=1e-3)
    assert {n for n, d in difference.items() if d.ndim == 1} == set(report.dropped)


def test_the_truncated_svd_is_the_best_there_is():
    weight = torch.randn(40, 10, 3, 3, generator=torch.Generator().manual_seed(0))
    up, down = truncated_svd(weight, 8)
    assert up.shape == (40, 8, 1, 1) and down.shape == (8, 10, 3, 3)
    missed = (weight.flatten(1) - up.flatten(1) @ down.flatten(1)).norm()
    best = torch.linalg.svdvals(weight.flatten(1))[8:].norm()
    assert missed < 1.01 * best
    before = torch.random.get_rng_state()
    assert torch.equal(truncated_svd(weight, 8)[0], up) and torch.equal(before, torch.random.get_rng_state())


def test_a_model_of_other_anatomy_needs_its_configuration(modules, path):
    unet = random_modules(REDUCED_SD15, seed=1)[0]
    attribute = make(lora_delta(unet))
    export_lora(attribute, path, unet.config)
    keys = {k.partition(".")[0].removeprefix("lora_unet_") for k in load_file(path)}
    assert keys == {n.rpartition(".")[0].replace(".", "_") for n, p in unet.named_parameters() if p.ndim > 1}
    remembered = make(lora_delta(unet), extra={"unet_config": dict(REDUCED_SD15["unet"])})
    export_lora(remembered, path)
    assert {k.partition(".")[0].removeprefix("lora_unet_") for k in load_file(path)} == keys
    with pytest.raises(ESCDiffError, match="a model of another kind: use `export --format full`"):
        export_lora(make(lora_delta(modules[0])), path, unet.config)


def host_patches(path):
    """Read ``diffusion_model.<module>.diff`` and ``.diff_b`` as ComfyUI's loader does: tensor name →
    difference."""
    ends = {".diff": ".weight", ".diff_b": ".bias"}
    patches = {}
    for key, tensor in load_file(path).items():
        end = next(e for e in ends if key.endswith(e))
        patches[key.removeprefix("diffusion_model.").removesuffix(end) + ends[end]] = tensor
    return patches


@pytest.mark.parametrize("form", ["full", "lora"])
def test_full_export_is_the_whole_difference(form, modules, path):
    delta = full_delta(modules[0], 2) if form == "full" else lora_delta(modules[0])
    attribute = make(delta).quantised()
    report = export_full(attribute, path)
    patches, expected = host_patches(path), dict(differences(attribute.delta))
    assert report.error == 0 and patches.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(patches[name], tensor.half())


def test_embedding_lands_in_the_tokenizer_and_the_text_encoder(pipeline, path):
    attribute = make({})
    export_embedding(attribute, path)
    with safe_open(path, framework="pt") as file:
        assert list(file.keys()) == ["emb_params"]
    pipeline.load_textual_inversion(path, token="*a", local_files_only=True)
    table = pipeline.text_encoder.get_input_embeddings().weight
    ids = pipeline.tokenizer.convert_tokens_to_ids(["*a", "*a_1", "*a_2"])
    assert torch.equal(table[ids], attribute.embeddings["clip_l"])
    prompt = pipeline.maybe_convert_prompt("a red *a star", pipeline.tokenizer)
    found = pipeline.tokenizer(prompt, add_special_tokens=False).input_ids
    assert [i for i in found if i in ids] == ids


def test_two_text_encoders_keep_their_names(path):
    vectors = {"clip_l": torch.randn(2, 8), "clip_g": torch.randn(2, 12)}
    export_embedding(make({}, embeddings=vectors), path)
    assert {n: tuple(t.shape) for n, t in load_file(path).items()} == {"clip_l": (2, 8), "clip_g": (2, 12)}


@pytest.mark.parametrize("changes, words", [
    ({"reach": "own"}, "only ESCDiff can show *a to the 1 blocks alone that learned it"),
    ({"reach": "all", "layout": "layers", "embeddings": {"clip_l": torch.ones(16, WIDTH)}},
     "only ESCDiff can give each of the layers its own vector of *a"),
    ({"reach": "all"}, ""),
], ids=["routed", "layers", "whole"])
@pytest.mark.parametrize("kind", ["full", "lora", "embedding"])
def test_an_export_says_what_no_other_program_can_do(modules, path, caplog, changes, words, kind):
    attribute = make(lora_delta(modules[0]), **changes)
    if kind == "embedding" and attribute.layout != "one":
        with pytest.raises(ESCDiffError, match="an embedding file one for all"):
            export_embedding(attribute, path)
        return
    {"full": export_full, "lora": export_lora, "embedding": export_embedding}[kind](attribute, path)
    told = json.loads(metadata_of(path)["escdiff.export"])
    assert told.get("lost", "").startswith(words) and bool(told.get("lost")) == bool(words)
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == (
        [told["lost"]] if words else []
    )


def test_what_is_not_there_cannot_be_exported(modules, path):
    for export in (export_lora, export_full):
        with pytest.raises(ESCDiffError, match="--format embedding"):
            export(make({}), path)
    with pytest.raises(ESCDiffError, match="--format lora"):
        export_embedding(make(lora_delta(modules[0]), embeddings={}), path)
    with pytest.raises(ESCDiffError, match="rank 0"):
        export_lora(make(lora_delta(modules[0])), path, rank=0)
    with pytest.raises(ESCDiffError, match="biases and norms"):
        export_lora(make({"out.0.bias": torch.ones(32)}), path)
    assert not path.exists()


def test_equal_attributes_export_to_equal_bytes(modules, tmp_path):
    for name in ("1", "2"):
        export_lora(make(full_delta(modules[0], 5)), tmp_path / f"{name}.safetensors", rank=3)
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()
