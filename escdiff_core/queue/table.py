"""The table: a CSV file, a job per row, a column per input of the workflow; all of it is checked before
anything is sent."""

import copy
import csv
import hashlib
import io
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..errors import ESCDiffError
from .workflow import Graph, find_place

# class: the input whose cell is a local file to upload
PICTURE_INPUTS = {"LoadImage": "image", "LoadImageMask": "image"}
# ComfyUI's own mark for a file that lies on the server
ON_SERVER = re.compile(r" \[(input|output|temp)\]$")
FILE_NAME = re.compile(r"\w[\w .+-]{0,119}(?<![ .])")


@dataclass(frozen=True)
class Picture:
    """A local picture and the content-addressed name under which it is uploaded."""

    path: Path
    name: str


@dataclass(frozen=True)
class Job:
    """A row of the table on the workflow; ``graph`` names its pictures by content, so that ``digest`` is the
    same everywhere."""

    name: str                                # of the output files
    values: dict[str, object]                # column: value, for the report
    graph: Graph
    pictures: dict[tuple[str, str], Picture]  # (node key, input)

    @property
    def digest(self) -> str:
        """A hash of all that decides what is drawn: the graph without its titles."""
        plain = {key: [node["class_type"], node["inputs"]] for key, node in self.graph.items()}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def read_table(path: Path, workflow: Graph) -> list[Job]:
    """The jobs of a table, every cell checked. Raises ESCDiffError with the line of the first mistake."""
    columns, rows = _rows(path)
    places: dict[str, tuple[str, str]] = {}
    for column in columns:
        if column == "name":
            continue
        place = find_place(workflow, column)
        if place in places.values():
            raise ESCDiffError(
                f"table {path}: column {column!r} means an input that another column sets already; "
                "keep one of them"
            )
        places[column] = place
    seen: dict[str, int] = {}
    known: dict[Path, Picture] = {}
    jobs = []
    for number, (line, cells) in enumerate(rows):
        row = dict(zip(columns, cells, strict=True))
        where = f"table {path}, line {line}"
        name = row.pop("name", "").strip() or f"{number:03d}"
        if not FILE_NAME.fullmatch(name):
            raise ESCDiffError(
                f"{where}: name {name!r} cannot be part of a file name; use letters, digits, space and "
                "_ - + ."
            )
        if name.casefold() in seen:
            raise ESCDiffError(
                f"{where}: name {name!r} is taken by line {seen[name.casefold()]}; each row needs a "
                "name of its own"
            )
        seen[name.casefold()] = line
        jobs.append(_job(name, row, places, workflow, path.parent, where, known))
    return jobs


def typed(cell: str, given: object, where: str) -> bool | int | float | str:
    """A cell as number, bool or text; ``given``, the workflow's own value, must be of the same sort (text
    stays text)."""
    if cell.strip() == '""':
        value: bool | int | float | str = ""
    elif isinstance(given, str):
        return cell
    else:
        value = _parsed(cell)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(given, bool) and not isinstance(value, bool):
        raise ESCDiffError(f"{where} takes true or false, not {cell!r}")
    if isinstance(given, int | float) and not isinstance(given, bool) and not number:
        raise ESCDiffError(f"{where} takes a number (such as {given}), not {cell!r}")
    return value


def _rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and (line in the file, cells) for each row that is not blank."""
    if not path.is_file():
        raise ESCDiffError(f"--table {path} does not exist; give a CSV file with columns node.input")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ESCDiffError(f"--table {path} is not UTF-8 text; save it as 'CSV UTF-8'") from error
    # spreadsheets of half of Europe write semicolons
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise ESCDiffError(
            f"--table {path}, line {reader.line_num}: {error}; save it again as CSV"
        ) from error
    if len(lines) < 2:
        raise ESCDiffError(
            f"--table {path} has no rows; the first line names the columns (node.input), each further "
            "line is a job"
        )
    columns = [cell.strip() for cell in lines[0][1]]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise ESCDiffError(f"--table {path} has the column {twice[0]!r} more than once; keep one of them")
    for line, cells in lines[1:]:
        if len(cells) != len(columns):
            raise ESCDiffError(
                f"table {path}, line {line}: {len(cells)} cells under {len(columns)} columns; put "
                "quotation marks around text that holds a "
                f"{'tab' if delimiter == chr(9) else delimiter!r}"
            )
    return columns, lines[1:]


def _job(name: str, row: dict[str, str], places: dict[str, tuple[str, str]], workflow: Graph, folder: Path,
         where: str, known: dict[Path, Picture]) -> Job:
    graph, values, pictures = copy.deepcopy(workflow), {}, {}
    for column, cell in row.items():
        # an empty cell leaves what the workflow says; `""` is the empty text
        if not cell.strip():
            continue
        key, place = places[column]
        inputs = graph[key]["inputs"]
        if PICTURE_INPUTS.get(graph[key]["class_type"]) == place and not ON_SERVER.search(cell):
            path = folder / Path(cell.strip()).expanduser()
            if path not in known:
                known[path] = _picture(path, f"{where}, {column}")
            pictures[key, place] = known[path]
            inputs[place] = known[path].name
            values[column] = cell.strip()
        else:
            inputs[place] = values[column] = typed(cell, inputs[place], f"{where}: {column}")
    return Job(name, values, graph, pictures)


def _picture(path: Path, where: str) -> Picture:
    if not path.is_file():
        raise ESCDiffError(f"{where}: there is no picture {path}; a path counts from the table's folder "
                           "(for a file that lies on the server write `name.png [input]`)")
    try:
        with Image.open(path) as image:
            image.verify()
    except Exception as error:  # Pillow raises SyntaxError, OSError, ValueError, … for broken files
        raise ESCDiffError(
            f"{where}: {path} is not a picture that can be read; save it again as PNG or JPEG"
        ) from error
    return Picture(path, f"escdiff_{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}{path.suffix.lower()}")


def _parsed(cell: str) -> bool | int | float | str:
    plain = cell.strip()
    if plain.lower() in ("true", "false"):   # spreadsheets write TRUE
        return plain.lower() == "true"
    try:
        value = json.loads(plain)
    except ValueError:
        return cell
    return value if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)) else cell
