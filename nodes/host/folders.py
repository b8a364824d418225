"""Where the pack keeps its files in the host; light, because nodes ask for it while ComfyUI starts."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import folder_paths

from ...escdiff_core.errors import ESCDiffError
from ...escdiff_core.files import FILTERS_KEY, file_below, metadata_of, next_free

ATTRIBUTES = "escdiff"          # the host's model folder for attributes and filters
POCKET = "pocket"               # the encoder that comes with the pack


def register_folders() -> None:
    """Give the host a model folder ``escdiff`` for attributes and filters."""
    folder_paths.add_model_folder_path(ATTRIBUTES, str(Path(folder_paths.models_dir) / ATTRIBUTES))
    paths, _ = folder_paths.folder_names_and_paths[ATTRIBUTES]
    folder_paths.folder_names_and_paths[ATTRIBUTES] = (paths, {".safetensors"})


def attribute_files(filters: bool = False) -> list[str]:
    """The files in the host's folders for attributes that hold no filters, or those that do."""
    found = []
    for name in folder_paths.get_filename_list(ATTRIBUTES):
        path = folder_paths.get_full_path(ATTRIBUTES, name)
        if path and not Path(name).name.startswith("."):             # a file that is being written
            stat = os.stat(path)
            if _holds_filters(path, stat.st_mtime_ns, stat.st_size) == filters:
                found.append(name)
    return found


def encoder_files() -> list[str]:
    return [POCKET, *folder_paths.get_filename_list("clip_vision")]


def find_attribute(name: str) -> Path:
    """The file ``name`` in any of the host's folders for attributes. Raises ESCDiffError when it is in
    none."""
    return _find(ATTRIBUTES, name, "attribute")


def find_encoder(name: str) -> Path:
    """The file ``name`` in any of the host's folders for vision towers. Raises ESCDiffError when it is in
    none."""
    return _find("clip_vision", name, "encoder file")


def _find(folder: str, name: str, what: str) -> Path:
    found = _existing(folder, name)
    if found is None:
        looked = ", ".join(folder_paths.get_folder_paths(folder))
        raise ESCDiffError(
            f"no {what} {name!r} in {looked}; press R to see the files that are there, or put it there"
        )
    return Path(found)


def _existing(folder: str, name: str) -> str | None:
    """Where it is, also if it was named with another system's slashes."""
    if not name or "\0" in name:
        return None
    return folder_paths.get_full_path(folder, name) or folder_paths.get_full_path(
        folder, name.replace("\\", "/")
    )


def fault_of(find: Callable[[str], Path], name: str | None) -> bool | str:
    """For validate_inputs: True where ``find`` finds the file, or it comes over a wire (None); else what is
    wrong."""
    try:
        return name is None or bool(find(name))
    except ESCDiffError as error:
        return str(error)


@lru_cache(maxsize=4096)
def _holds_filters(path: str, _written: int, _size: int) -> bool:
    return FILTERS_KEY in metadata_of(path)


def version_of(*paths: str | Path | None) -> str:
    """A text that changes when one of the files, or what lies in one of the folders, is written anew; for
    fingerprint_inputs."""
    digest = hashlib.sha256()
    for path in (Path(p) for p in paths if p):
        with suppress(OSError, ValueError):         # not to be read, or no path at all; who uses it says so
            for file in sorted(path.iterdir()) if os.path.isdir(path) else [path]:
                with suppress(OSError):             # gone, or a link that leads nowhere
                    digest.update(f"{file} {file.stat().st_mtime_ns}".encode())
    return digest.hexdigest()


def version_of_attribute(name: str | None) -> str:
    """The same for a file in the host's folders for attributes; ``None`` is none, as where the name comes
    over a wire."""
    return version_of(_existing(ATTRIBUTES, name) if name else None)


def free_path(name: str, may_replace: Callable[[Path], bool]) -> Path:
    """Where the file ``name`` shall lie; with a number behind the name if a file is there that it may not
    replace."""
    return next_free(attribute_path(name), may_replace)


def attribute_path(name: str) -> Path:
    """Where the file ``name`` shall lie in the host's folder for attributes. Raises ESCDiffError as
    file_below does."""
    return file_below(folder_paths.get_folder_paths(ATTRIBUTES)[0], name)
