"""Write safetensors so that the path holds the old file or the whole new one, and never half of it; look what
a file is."""

import errno
import filecmp
import os
import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .errors import ESCDiffError

FILTERS_KEY = "escdiff.filters"          # metadata of a file of filters
LONGEST_NAME = 200                       # bytes; disks take 255, and a temporary name beside it needs some
LONGEST_PATH = 1000                      # bytes below the folder; the whole path must fit into 4096
# in names on Windows, where a colon would even hide the file behind another
FORBIDDEN = frozenset('<>:"|?*')
# Windows opens these, whatever folder they are in
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.I)

# What to tell the user for the error numbers that are theirs to mend.
ADVICE = {
    errno.ENOSPC: "no space left on the disk; free some or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EFBIG: "the file is larger than this disk or account allows; choose another folder",
    errno.EACCES: "the folder may not be written to; choose another folder",
    errno.EPERM: "the folder may not be written to; choose another folder",
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another path",
    errno.EISDIR: "the path is a folder; give a file name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def write_safetensors(tensors: Mapping[str, torch.Tensor], path: str | Path, metadata_key: str = "format",
                      metadata: str = "pt") -> int:
    """Write CPU tensors and one metadata text; return the size in bytes. Equal content gives equal bytes.

    One metadata entry, because safetensors writes several in random order; without a text it is the usual
    ``format: pt``. Raises ESCDiffError with one sentence when the file cannot be written; nothing is left
    behind then, and a file that was at ``path`` stays as it was.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ESCDiffError(f"the file name {path.name!r} does not end in .safetensors; give one that does")
    if path.is_dir():
        raise ESCDiffError(f"cannot write {path}: {ADVICE[errno.EISDIR]}")
    temporary = path.with_name(f".{path.stem[:80]}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:  # made here for the usual rights: safetensors makes private files
            rights = os.fstat(file.fileno()).st_mode
        save_file({name: t.contiguous()
                   for name, t in tensors.items()}, temporary, metadata={metadata_key: metadata})
        os.chmod(temporary, rights)
        with temporary.open("rb+") as file:
            # before the rename, or a power cut could leave the name with an empty file
            os.fsync(file.fileno())
        os.replace(temporary, path)
        return path.stat().st_size
    except (OSError, SafetensorError) as error:
        raise ESCDiffError(f"cannot write {path}: {_advice(error)}") from error
    finally:
        with suppress(OSError):  # the same broken disk must not hide the sentence above
            temporary.unlink(missing_ok=True)


def file_below(root: str | Path, name: str, ending: str = ".safetensors") -> Path:
    """Where the file that a person calls ``name`` shall lie below ``root``, links not followed.

    Slashes of both kinds part folders, so that a workflow made on another system means the same file. Raises
    ESCDiffError for a name that leads out of ``root`` or that some system could not hold, list or delete
    again.
    """
    root, plain = Path(root).absolute(), name.strip().replace("\\", "/").removesuffix(ending)
    path = Path(os.path.normpath(root / (plain + ending)))
    if plain.endswith("/"):
        raise ESCDiffError(
            f"the name {name[:80]!r} ends with a folder; give a name such as vase or animals/cat"
        )
    if len(plain.encode("utf-8", "replace")) > LONGEST_PATH:
        raise ESCDiffError(
            f"the name {name[:80]!r}… is longer than {LONGEST_PATH} bytes; give a name such as vase or "
            "animals/cat"
        )
    if not plain or root not in path.parents:
        raise ESCDiffError(
            f"the name {name!r} does not lie in {root}; give a plain name, with folders below it at most"
        )
    for part in path.relative_to(root).parts:
        bare = part.removesuffix(ending)
        why = (
            "begins with a dot and would be hidden"
            if part.startswith(".")
            else "ends with a dot or a blank, which Windows drops"
            if bare.endswith((".", " "))
            else "is a device of Windows"
            if DEVICES.fullmatch(part)
            else "has one of the signs " + " ".join(sorted(FORBIDDEN))
            if FORBIDDEN & set(part)
            else "has letters that cannot be seen"
            if not part.isprintable()
            else f"is longer than {LONGEST_NAME} bytes"
            if len(part.encode("utf-8", "replace")) > LONGEST_NAME
            else ""
        )
        if why:
            raise ESCDiffError(
                f"the name {name[:80]!r} will not do: {bare[:80]!r} {why}; give a name such as vase or "
                "animals/cat"
            )
    return path


def next_free(path: Path, may_replace: Callable[[Path], bool] = lambda _: False) -> Path:
    """``path``, or with a number behind its name if a file is there that it may not replace."""
    found, number = path, 1
    while found.exists() and not (found.is_file() and may_replace(found)):
        number += 1
        found = path.with_name(f"{path.stem}_{number:02d}{path.suffix}")
    return found


def same_file(one: Path, other: Path) -> bool:
    """Do two files hold the same bytes? No, if one of them cannot be read."""
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def move(source: Path, path: Path) -> None:
    """Give ``source`` the name ``path``, over what is there. Raises ESCDiffError with one sentence."""
    try:
        os.replace(source, path)
    except OSError as error:
        raise ESCDiffError(f"cannot write {path}: {_advice(error)}") from error


def metadata_of(path: str | Path) -> Mapping[str, str]:
    """The texts in the head of a safetensors file, without its tensors; empty for what is no such file."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def _advice(error: OSError | SafetensorError) -> str:
    number = getattr(error, "errno", None)
    if number is None:  # safetensors passes the system's error on as text
        found = re.search(r"os error (\d+)", str(error))
        number = int(found.group(1)) if found else None
    return ADVICE.get(number, f"{error}; is the disk full or read-only?")
