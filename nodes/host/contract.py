"""What the pack asks of ComfyUI: each name of the host that it uses, and what it expects behind it.

A host that has changed is found out here: by one line in the log at load, by one sentence before anything is
learned, and by tests on real hosts, which also see to it that the lists are whole.
"""

import importlib
import inspect
import logging
import re
from collections.abc import Callable, Iterator
from functools import lru_cache, reduce
from itertools import chain

import torch

from ...escdiff_core.errors import ESCDiffError

TRIED = "0.3.64 to 0.33.0"
PATCHER, GROUP, IO = "comfy.model_patcher.ModelPatcher", "comfy.hooks.HookGroup", "comfy_api.latest.io"
log = logging.getLogger(__name__)

# For each part of the pack the names that it uses, with the parameters that must be there.
NAMES: dict[str, tuple[str, ...]] = {
    "nodes": ("comfy_api.latest.ComfyExtension", f"{IO}.ComfyNode", f"{IO}.Custom(io_type)",
              f"{IO}.NodeOutput(ui)",
              f"{IO}.Schema(node_id, display_name, description, inputs, outputs, category, is_output_node)",
              *(f"{IO}.{kind}.{end}"
                for end in ("Input(id, optional, tooltip)", "Output(id, display_name, tooltip)")
                for kind in ("Boolean", "Clip", "Combo", "Conditioning", "Float", "Image", "Int", "Latent",
                             "Mask", "Model", "String", "Vae")),
              f"{IO}.MultiType.Input(id, types, optional, tooltip)",
              "comfy_api.latest.ui.PreviewImage(image)", "comfy_api.latest.ui.PreviewText(value)"),
    "model": (
        f"{PATCHER}.clone",
        f"{PATCHER}.add_patches(patches, strength_patch)",
        f"{PATCHER}.get_key_patches(filter_prefix)",
        f"{PATCHER}.get_model_object(name)",
        f"{PATCHER}.set_attachments(key, attachment)",
        f"{PATCHER}.get_attachment(key)",
        f"{PATCHER}.add_wrapper_with_key(wrapper_type, key, wrapper)",
        f"{PATCHER}.remove_wrappers_with_key(wrapper_type, key)",
        "comfy.patcher_extension.WrappersMP.CALC_COND_BATCH",
        "comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL",
        # what our two wrappers stand in for: they have to be called with the same
        "comfy.samplers.calc_cond_batch(model, conds, x_in, timestep, model_options)",
        "comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel.forward(x, timesteps, context, y, control, "
        "transformer_options)",
        "comfy.conds.CONDCrossAttn(cond)",
        "comfy.hooks.WeightHook(strength_model)",
        GROUP,
        f"{GROUP}.add(hook)",
        f"{GROUP}.combine_all_hooks(hooks_list)",
        f"{GROUP}.is_subset_of(other)",
        "comfy.lora.load_lora(lora, to_load, log_missing)",
        "comfy.lora.calculate_weight(patches, weight, key)",
        "comfy.model_sampling.X0",
        "comfy.model_sampling.EDM",
        "comfy.model_sampling.V_PREDICTION"),
    "clip": ("comfy.sd.CLIP.clone", "comfy.sd.CLIP.tokenize(text, return_word_ids)",
             "comfy.sd.CLIP.encode_from_tokens_scheduled(tokens)"),
    "vae": ("comfy.sd.VAE",),
    "learning": ("comfy.utils.ProgressBar(total)",
                 "comfy.utils.ProgressBar.update_absolute(value, total, preview)",
                 "comfy.model_management.throw_exception_if_processing_interrupted",
                 "comfy.model_management.InterruptProcessingException",
                 "comfy.model_management.get_torch_device",
                 "comfy.model_management.free_memory(memory_required, device)",
                 "comfy.model_management.get_free_memory(dev)"),
    "sampling": ("comfy.sample.fix_empty_latent_channels(model, latent_image)",
                 "comfy.sample.prepare_noise(latent_image, seed, noise_inds)",
                 "comfy.sample.sample(model, noise, steps, cfg, sampler_name, scheduler, positive, negative, "
                 "latent_image, denoise, noise_mask, callback, disable_pbar, seed)",
                 "comfy.samplers.KSampler.SAMPLERS", "comfy.samplers.KSampler.SCHEDULERS",
                 "comfy.utils.PROGRESS_BAR_ENABLED", "latent_preview.prepare_callback(model, steps)"),
    "pocket": (PATCHER, "comfy.patcher_extension.WrappersMP.OUTER_SAMPLE",
               "comfy.samplers.CFGGuider.outer_sample(noise)", "comfy.latent_formats",
               "comfy.model_base.ModelType",
               "comfy.model_detection.detect_unet_config(state_dict, key_prefix)",
               "comfy.model_management.unet_offload_device", "comfy.ops.manual_cast.Embedding",
               "comfy.sd.CLIP(target, embedding_directory, parameters, model_options)",
               "comfy.sd.CLIP.load_sd(sd, full_model)", "comfy.sd.VAE(sd, config, dtype)",
               "comfy.sd1_clip.SDClipModel(device, dtype, model_options, textmodel_json_config, "
               "special_tokens, return_projected_pooled)",
               "comfy.sd1_clip.SD1ClipModel(device, dtype, model_options, clip_model)",
               "comfy.sd1_clip.SDTokenizer(embedding_directory, embedding_size, tokenizer_class)",
               "comfy.sd1_clip.SD1Tokenizer(embedding_directory, tokenizer)", "comfy.supported_models.SD15",
               "comfy.supported_models.SD15.set_inference_dtype(dtype, manual_cast_dtype)",
               "comfy.supported_models.SD15.get_model(state_dict, prefix, device)",
               "comfy.model_base.BaseModel.load_model_weights(sd, unet_prefix)",
               "comfy.supported_models_base.ClipTarget(tokenizer, clip)",
               "comfy.utils.calculate_parameters(sd)", "comfy.utils.load_torch_file(ckpt, return_metadata)"),
    "files": ("folder_paths.add_model_folder_path(folder_name, full_folder_path)",
              "folder_paths.folder_names_and_paths", "folder_paths.get_filename_list(folder_name)",
              "folder_paths.get_folder_paths(folder_name)",
              "folder_paths.get_full_path(folder_name, filename)", "folder_paths.get_user_directory",
              "folder_paths.models_dir"),
}
# What older hosts lack, and what the pack does without it.
LATER: dict[str, str] = {
    "server.PromptServer.send_progress_text(text, node_id, sid)": "what a node says stands in the log alone",
    f"{IO}.Schema(search_aliases)": "nodes are found by their names alone",
    f"{PATCHER}.is_dynamic": "there is no dynamic VRAM, and no loading again for it",
}
# Of the objects that come over the wires: attributes that their classes have only once they are made.
ATTRIBUTES = {
    "model": ("model.diffusion_model", "model.model_config.unet_config", "model.latent_format.scale_factor",
              "patches", "patches_uuid"),
    "clip": ("tokenizer.tokenize_with_weights", "patcher.patches", "cond_stage_model", "layer_idx"),
    "vae": ("first_stage_model",),
}


@lru_cache(maxsize=1)
def missing() -> dict[str, tuple[str, ...]]:
    """For each part of the pack what this host lacks; parts that lack nothing are left out."""
    found = {part: tuple(said for name in names if (said := fault_of(name))) for part, names in NAMES.items()}
    return {part: faults for part, faults in found.items() if faults}


def fault_of(name: str) -> str:
    """What is wrong with a line of NAMES on this host; empty if nothing is."""
    path, wanted = re.fullmatch(r"([\w.]+)(?:\((.*)\))?", name).groups()
    try:
        held = find(path)
    except (ImportError, AttributeError):
        return f"{path} is not there"
    if wanted is None:
        return ""
    known = inspect.signature(held).parameters
    lost = [p for p in wanted.split(", ") if p not in known]
    return f"{path} takes no {' and no '.join(lost)}" if lost else ""


def find(path: str):
    """What stands under a dotted ``path``. Raises ImportError or AttributeError."""
    names = path.split(".")
    for count in range(len(names), 0, -1):
        try:
            module = importlib.import_module(".".join(names[:count]))
        except ModuleNotFoundError:
            continue
        return reduce(getattr, names[count:], module)
    raise ImportError(f"no module {names[0]}")


def warn_of_missing() -> None:
    """One line in the log when this host lacks something, for those who start it."""
    if missing():
        faults = "; ".join(f"{fault} ({part})" for part, faults in missing().items() for fault in faults)
        log.warning("ESCDiff: %s", sentence(faults))


def require(*parts: str) -> None:
    """Raise ESCDiffError unless this host has what the ``parts`` of the pack need."""
    if faults := list(chain.from_iterable(missing().get(part, ()) for part in parts)):
        raise ESCDiffError(sentence("; ".join(faults)))


def hold(part: str, given) -> None:
    """Raise ESCDiffError unless ``given``, a MODEL, CLIP or VAE, does what the pack expects of it."""
    for path in ATTRIBUTES[part]:
        try:
            reduce(getattr, path.split("."), given)
        except AttributeError:
            raise ESCDiffError(sentence(f"a {part.upper()} has no {path}")) from None
    for expected, holds in BEHAVIOUR.get(part, {}).items():
        try:
            fine = holds(given)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            log.info("ESCDiff: %s: %r", expected, error)
            fine = False
        if not fine:
            raise ESCDiffError(sentence(f"not so any more: {expected}"))


def sentence(faults: str) -> str:
    """The ``faults`` of this host for whoever reads them."""
    version = getattr(importlib.import_module("comfyui_version"), "__version__", "of unknown version")
    return (f"this ComfyUI ({version}) is not as ESCDiff needs it: {faults}; update ESCDiff, or use a "
            f"ComfyUI from {TRIED}, with which it was tried")


def _weights_are_listed(model) -> bool:
    (weight, convert), *_ = next(iter(model.get_key_patches("diffusion_model.").values()))
    return torch.is_tensor(weight) and callable(convert)


def _patches_are_taken(model) -> bool:
    key, ((weight, _), *_) = next(iter(model.get_key_patches("diffusion_model.").items()))
    return key in model.clone().add_patches({key: ("diff", (torch.zeros(weight.shape),))}, 1.0)


def _words_are_numbered(clip) -> bool:
    for chunks in clip.tokenize("a photo", return_word_ids=True).values():
        numbers = [number for _id, _weight, number in chain.from_iterable(chunks)]
        if not any(numbers) or all(numbers):
            return False
    return True


def _vectors_are_words(clip) -> bool:
    from .prompts import clip_with_tokens, encode, encoders_of, words_of

    vectors = {encoder: words_of(clip, encoder).rows("photo") for encoder in encoders_of(clip)}
    knowing = clip_with_tokens(clip, {"*": vectors})
    pairs = zip(encode(knowing, "a (*:1.1)"), encode(clip, "a (photo:1.1)"), strict=True)
    return all(torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2) for (ours, _), (theirs, _) in pairs)


BEHAVIOUR: dict[str, dict[str, Callable[[object], bool]]] = {
    "model": {"get_key_patches gives each weight and how to convert it": _weights_are_listed,
              "add_patches gives the names that it found": _patches_are_taken},
    "clip": {"tokenize gives the number of its word with each id": _words_are_numbered,
             "a vector in the place of an id is read as a word": _vectors_are_words},
}


def names() -> Iterator[str]:
    """All dotted names of NAMES and LATER."""
    return (name.partition("(")[0] for name in chain(chain.from_iterable(NAMES.values()), LATER))
