"""A run's state on disk: the attribute so far for the user to pick, and what a resumed run needs to equal an unbroken one."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import ESCDiffError

if TYPE_CHECKING:
    from .tune import Tuner

STATE = "resume.safetensors"


def _trained(tuner: "Tuner") -> list[torch.Tensor]:
    return [p for group in tuner.optimizer.param_groups for p in group["params"]]


def save_snapshot(tuner: "Tuner", directory: Path) -> None:
    """Keep ``step-000050.safetensors`` (an attribute file) and the state to resume from, each whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    tuner.attribute().save(directory / f"step-{tuner.done:06d}.safetensors")
    tensors = {}
    for i, parameter in enumerate(_trained(tuner)):
        tensors[f"{i}.value"] = parameter.detach()
        for key, value in tuner.optimizer.state[parameter].items():
            tensors[f"{i}.{key}"] = value
    metadata = {"done": str(tuner.done), "losses": json.dumps(tuner.report.losses), "run": run_identity(tuner)}
    unfinished = directory / (STATE + ".tmp")
    save_file({k: v.cpu().contiguous().clone() for k, v in tensors.items()}, unfinished, metadata)
    os.replace(unfinished, directory / STATE)


def load_snapshot(tuner: "Tuner", directory: Path) -> None:
    """Continue where ``directory`` left off, if it holds a state. Raises ESCDiffError if that was another run."""
    path = directory / STATE
    if not path.exists():
        return
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("run") != run_identity(tuner):
                raise ESCDiffError(f"{directory} holds a run with another model, reference, recipe or seed; give the same "
                                   "settings as before, or start afresh without --resume")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ESCDiffError(f"{path} is damaged; delete it and start afresh") from error
    for i, parameter in enumerate(_trained(tuner)):
        parameter.data.copy_(tensors[f"{i}.value"])
        tuner.optimizer.state[parameter] = {
            k.split(".", 1)[1]: v.to(parameter.device if v.ndim else "cpu") for k, v in tensors.items()
            if k.startswith(f"{i}.") and not k.endswith(".value")}
    tuner.done, tuner.report.losses = int(metadata["done"]), json.loads(metadata["losses"])


def run_identity(tuner: "Tuner") -> str:
    """What must agree between a run and its continuation."""
    hashes = [r.hash for r in tuner.references]
    return json.dumps([tuner.model.fingerprint, tuner.recipe.hash(), tuner.seed, tuner.token, tuner.plain, hashes])
