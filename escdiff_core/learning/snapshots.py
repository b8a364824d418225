"""A run's state on disk: the attribute so far for the user to pick, and what a resumed run needs to equal an unbroken one."""

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from .. import __version__
from ..errors import ESCDiffError
from ..files import write_safetensors

if TYPE_CHECKING:
    from .tune import Tuner

log = logging.getLogger(__name__)
STATE = "resume.safetensors"
METADATA_KEY = "escdiff.run"


def save_snapshot(tuner: "Tuner", directory: Path) -> None:
    """Keep ``step-000050.safetensors`` (an attribute file) and the state to resume from, each whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"step-{tuner.done:06d}.safetensors"
    tuner.attribute().save(path)
    tensors = {}
    for i, parameter in enumerate(p for group in tuner.optimizer.param_groups for p in group["params"]):
        tensors[f"{i}.value"], tensors[f"{i}.average"] = parameter.detach(), tuner.average[i]
        for key, value in tuner.optimizer.state[parameter].items():
            tensors[f"{i}.{key}"] = value
    tensors |= {f"state.{key}": value for key, value in tuner.trained.state.items()}
    metadata = {"done": tuner.done, "losses": tuner.report.losses, "run": run_identity(tuner)}
    write_safetensors({k: v.cpu() for k, v in tensors.items()}, directory / STATE, METADATA_KEY, json.dumps(metadata))
    if tuner.fresh:                         # not before its own are there: those of a run that this one replaces
        for earlier in set(directory.glob("step-*.safetensors")) - {path}:
            earlier.unlink(missing_ok=True)
        tuner.fresh = False


def load_snapshot(tuner: "Tuner", directory: Path) -> None:
    """Continue where ``directory`` left off, if it holds a state. Raises ESCDiffError if that was another run."""
    path = directory / STATE
    if not path.exists():
        return
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            if metadata.get("run") != run_identity(tuner):
                raise ESCDiffError(f"{directory} holds a run with another model, reference, recipe, seed or ESCDiff; give the same "
                                   "settings as before, or ‹afresh›")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ESCDiffError(f"{path} is damaged; delete it and start afresh") from error
    for i, parameter in enumerate(p for group in tuner.optimizer.param_groups for p in group["params"]):
        parameter.data.copy_(tensors.pop(f"{i}.value"))
        tuner.average[i].copy_(tensors.pop(f"{i}.average"))
        tuner.optimizer.state[parameter] = {
            # a copy: what safetensors hands out is a window into the file; and fused AdamW keeps its step on the device
            k.split(".", 1)[1]: v.to(parameter.device, copy=True) for k, v in tensors.items()
            if k.startswith(f"{i}.")}
    for key, value in tuner.trained.state.items():
        value.copy_(tensors[f"state.{key}"])
    tuner.done, tuner.report.losses, tuner.fresh = metadata["done"], metadata["losses"], False


def try_to_save_snapshot(tuner: "Tuner", directory: Path) -> None:
    """Keep a snapshot if there is room for it: a run must not end, nor its error be hidden, because there is none."""
    try:
        save_snapshot(tuner, directory)
    except (ESCDiffError, OSError) as error:
        log.warning("no snapshot of step %d: %s", tuner.done, error)


def was_cut_short(directory: Path) -> bool:
    """Does ``directory`` hold a run that did not finish?"""
    return (directory / STATE).exists()


def drop_state(directory: Path) -> None:
    """Take away what a finished run would be resumed from: four fp32 numbers for each trained weight."""
    (directory / STATE).unlink(missing_ok=True)


def run_identity(tuner: "Tuner") -> list:
    """What must agree between a run and its continuation, as JSON data."""
    words = [tuner.token, tuner.plain, tuner.init_word, tuner.class_word, tuner.describe]
    network = [tuner.filter_trains, list(tuner.network.widths.values()) if tuner.network else []]
    if tuner.network and not tuner.filter_trains:
        network += [hashlib.sha256(p.detach().cpu().numpy().tobytes()).hexdigest() for p in tuner.network.parameters()]
    pictures = [r.hash for r in tuner.references]
    return [__version__, tuner.model.fingerprint, tuner.recipe.hash(), tuner.seed, words, pictures, network]
