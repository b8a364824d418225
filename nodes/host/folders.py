"""Where the pack keeps its files in the host; light, because nodes ask for it while ComfyUI starts."""

from collections.abc import Callable
from pathlib import Path

import folder_paths

from ...escdiff_core.errors import ESCDiffError
from ...escdiff_core.files import FILTERS_KEY, metadata_of

ATTRIBUTES = "escdiff"          # the host's model folder for attributes and filters
POCKET = "pocket"               # the encoder that comes with the pack


def register_folders() -> None:
    """Give the host a model folder ``escdiff`` for attributes and filters."""
    folder_paths.add_model_folder_path(ATTRIBUTES, str(Path(folder_paths.models_dir) / ATTRIBUTES))
    paths, _ = folder_paths.folder_names_and_paths[ATTRIBUTES]
    folder_paths.folder_names_and_paths[ATTRIBUTES] = (paths, {".safetensors"})


def attribute_files(filters: bool = False) -> list[str]:
    """The files in the host's folders for attributes that hold no filters, or those that do."""
    return [name for name in folder_paths.get_filename_list(ATTRIBUTES)
            if (FILTERS_KEY in metadata_of(folder_paths.get_full_path(ATTRIBUTES, name) or name)) == filters]


def encoder_files() -> list[str]:
    return [POCKET, *folder_paths.get_filename_list("clip_vision")]


def find_attribute(name: str) -> Path:
    """The file ``name`` in any of the host's folders for attributes. Raises ESCDiffError when it is in none."""
    found = folder_paths.get_full_path(ATTRIBUTES, name)
    if found is None:
        looked = ", ".join(folder_paths.get_folder_paths(ATTRIBUTES))
        raise ESCDiffError(f"no attribute {name!r} in {looked}; press R to see the files that are there")
    return Path(found)


def age_of_attribute(name: str) -> int | str:
    """When the file ``name`` was written; empty when it is gone."""
    path = folder_paths.get_full_path(ATTRIBUTES, name)
    return Path(path).stat().st_mtime_ns if path else ""


def age_of_folder(folder: str) -> list[tuple[str, int]]:
    """What lies in ``folder`` and when each was written; empty for none."""
    path = Path(folder or "")
    return sorted((p.name, p.stat().st_mtime_ns) for p in path.iterdir()) if folder and path.is_dir() else []


def free_path(name: str, may_replace: Callable[[Path], bool]) -> Path:
    """Where the file ``name`` shall lie; with a number behind the name if a file is there that it may not replace."""
    path, number, plain = attribute_path(name), 1, name.strip().removesuffix(".safetensors")
    while path.exists() and not (path.is_file() and may_replace(path)):
        number += 1
        path = attribute_path(f"{plain}_{number:02d}")
    return path


def attribute_path(name: str) -> Path:
    """Where the file ``name`` lies or shall lie in the host's folder for attributes. Raises ESCDiffError if a name leads out."""
    root = Path(folder_paths.get_folder_paths(ATTRIBUTES)[0])
    path = (root / f"{name.strip().removesuffix('.safetensors')}.safetensors").resolve()
    if not name.strip() or root.resolve() not in path.parents:
        raise ESCDiffError(f"the name {name!r} does not lie in {root}; give a plain name, with folders below it at most")
    return path
