"""A run's state on disk: the attribute so far for the user to pick, and what a resumed run needs to equal an
unbroken one."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..attribute import Attribute
from ..errors import ESCDiffError
from ..files import write_safetensors

log = logging.getLogger(__name__)
STATE = "resume.safetensors"
METADATA_KEY = "escdiff.run"


@dataclass(frozen=True)
class RunState:
    """Where a run stands after ``done`` steps: its ``tensors`` by name, its ``losses``, and which run it is
    (JSON data)."""

    done: int
    losses: Sequence[float]
    tensors: Mapping[str, torch.Tensor]
    identity: list


def save_snapshot(state: RunState, attribute: Attribute, directory: Path) -> None:
    """Keep ``step-000050.safetensors`` (an attribute file) and the state to resume from, each whole or not at
    all."""
    directory.mkdir(parents=True, exist_ok=True)
    attribute.save(directory / f"step-{state.done:06d}.safetensors")
    metadata = {"done": state.done, "losses": list(state.losses), "run": state.identity}
    write_safetensors(
        {k: v.cpu() for k, v in state.tensors.items()}, directory / STATE, METADATA_KEY, json.dumps(metadata)
    )


def drop_earlier(directory: Path, done: int) -> None:
    """Take away the steps of a run that another one replaces, whose first is number ``done``."""
    for earlier in set(directory.glob("step-*.safetensors")) - {directory / f"step-{done:06d}.safetensors"}:
        earlier.unlink(missing_ok=True)


def load_snapshot(directory: Path, identity: list) -> RunState | None:
    """The state in ``directory``, if it holds one. Raises ESCDiffError if that is another run's than
    ``identity``."""
    path = directory / STATE
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            if metadata.get("run") != identity:
                raise ESCDiffError(
                    f"{directory} holds a run with another model, reference, recipe, seed or ESCDiff; "
                    "give the same settings as before, or ‹afresh›"
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        return RunState(metadata["done"], metadata["losses"], tensors, identity)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ESCDiffError(f"{path} is damaged; delete it and start afresh") from error


def was_cut_short(directory: Path) -> bool:
    """Does ``directory`` hold a run that did not finish?"""
    return (directory / STATE).exists()


def drop_state(directory: Path) -> None:
    """Take away what a finished run would be resumed from: four fp32 numbers for each trained weight."""
    (directory / STATE).unlink(missing_ok=True)
