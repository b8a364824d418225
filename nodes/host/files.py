"""Exports into the host's own folders."""

from pathlib import Path

import folder_paths

from ...escdiff_core.attribute import Attribute
from ...escdiff_core.attribute.export import export_embedding, export_full, export_lora
from ...escdiff_core.errors import lookup
from ...escdiff_core.files import file_below, next_free

FOLDERS = {"lora": "loras", "full": "loras", "embedding": "embeddings"}


def export_path(form: str, name: str) -> Path:
    """Where the file ``name`` shall lie in the folder for its form. Raises ESCDiffError as file_below
    does."""
    return file_below(folder_paths.get_folder_paths(lookup(FOLDERS, form, "form"))[0], name)


def export(attribute: Attribute, form: str, name: str, rank: int) -> tuple[str, str]:
    """Write the file where the host's loaders look; returns its path and a line about it."""
    path = next_free(export_path(form, name))
    if form == "lora":
        report = export_lora(attribute, path, rank=rank)
    else:
        report = {"embedding": export_embedding, "full": export_full}[form](attribute, path)
    note = f"{path}: {report.size / 1e6:.1f} MB" + (
        f", {report.error:.1%} of the change is lost" if report.error > 0.001 else ""
    )
    return str(path), note
