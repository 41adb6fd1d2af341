"""The catalogue as its owner keeps it: a folder of images, a CSV, JSONL or Parquet file, read into items."""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.delivery.store_file import is_address, store_file
from lookalike.errors import SetupError

IMAGE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".heic",
        ".heif",
        ".avif",
    }
)
TABLE_SUFFIXES = {".csv": ",", ".tsv": "\t"}
LINES_SUFFIXES = frozenset({".jsonl", ".ndjson"})
PARQUET_SUFFIX = ".parquet"
FOLDER_LEVELS = ("category", "subcategory")
_FIELDS = ("path", "item_id", "title", "url")
CAPTION_BYTES = 4000  # of a text file, in which its first line is looked for
_PARQUET_ROWS = 8192  # read at once


class ImageFile(Protocol):
    """An encoded image: a file of this machine (a `Path`), or an object in a store (`StoreFile`)."""

    def open(self, mode: Literal["rb"], /) -> BinaryIO:
        """Open it; raises OSError when it cannot be read."""


@dataclass(frozen=True)
class Item:
    """One image of the catalogue, and what its owner says of it."""

    item_id: str
    path: ImageFile
    title: str | None = None
    url: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Catalogue:
    """The items of one source in its order; `ignored` counts the files of a folder that are no images."""

    source: Path
    items: list[Item]
    ignored: int = 0


def read_catalogue(source: Path, folder_levels: Sequence[str] = FOLDER_LEVELS) -> Catalogue:
    """Read the items of a folder, of a CSV or TSV file, of a JSONL file, or of a Parquet file.

    In a folder every image is an item: its item_id is the path inside the folder, the names of the folders on the way
    are the attributes `folder_levels`, and the first line of `<stem>.txt` beside it is its title. A table needs the
    columns `path` and `item_id`, may have `title` and `url`, and any other column is an attribute; paths are relative
    to the table's folder, or addresses of objects (`s3://bucket/name`). A folder named `*.parquet` is one table.

    Raises:
        SetupError: naming the file and the line that is wrong.
    """
    if source.is_dir() and source.suffix.lower() != PARQUET_SUFFIX:
        return _read_folder(source, folder_levels)
    line_of: dict[str, int] = {}
    items: list[Item] = []
    for line, item in table_items(source):
        if item.item_id in line_of:
            raise SetupError(
                f"{source}:{line}: item_id {item.item_id!r} was given in line {line_of[item.item_id]} already"
            )
        line_of[item.item_id] = line
        items.append(item)
    return Catalogue(source, items)


def table_items(source: Path, near: str | None = None) -> Iterator[tuple[int, Item]]:
    """Yield the items of a table one by one with their lines, whatever its size; ids are not compared.

    Relative paths are those beside `source`, or below the address `near` (of a table that was fetched from a store).

    Raises:
        SetupError: naming the file and the line that is wrong.
    """
    if not source.exists():
        raise SetupError(f"catalogue {source} does not exist")
    suffix = source.suffix.lower()
    if suffix in TABLE_SUFFIXES:
        rows = _table_rows(source, TABLE_SUFFIXES[suffix])
    elif suffix in LINES_SUFFIXES:
        rows = _json_rows(source)
    elif suffix == PARQUET_SUFFIX:
        rows = _parquet_rows(source)
    else:
        allowed = ["a folder", *TABLE_SUFFIXES, *sorted(LINES_SUFFIXES), PARQUET_SUFFIX]
        raise SetupError(f"catalogue {source} is of an unknown kind: {suffix or 'no suffix'}", allowed=allowed)
    try:
        for line, row in rows:
            yield line, _item(source, line, row, near)
    except UnicodeDecodeError as error:
        raise SetupError(f"{source}: is not UTF-8 text: {error}") from error


def _item(source: Path, line: int, row: dict[str, str], near: str | None) -> Item:
    for name in ("path", "item_id"):
        if not row.get(name):
            raise SetupError(f"{source}:{line}: {name} is missing or empty")
    if not row["item_id"].isprintable():
        raise SetupError(f"{source}:{line}: item_id {row['item_id']!r} holds characters that cannot be printed")
    path = row["path"] if near is None or is_address(row["path"]) else f"{near}/{row['path']}"
    return Item(
        item_id=row["item_id"],
        path=store_file(path) if is_address(path) else source.parent / path,
        title=row.get("title") or None,
        url=row.get("url") or None,
        attributes={name: value for name, value in row.items() if name not in _FIELDS and value},
    )


def _table_rows(source: Path, delimiter: str) -> Iterator[tuple[int, dict[str, str]]]:
    with source.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            _check_header(source, header)
            line = reader.line_num + 1
            for values in reader:
                if values and len(values) != len(header):
                    raise SetupError(f"{source}:{line}: {len(values)} values for {len(header)} columns")
                if values:
                    yield line, dict(zip(header, values, strict=True))
                line = reader.line_num + 1
        except csv.Error as error:
            raise SetupError(f"{source}:{reader.line_num}: {error}") from error


def _parquet_rows(source: Path) -> Iterator[tuple[int, dict[str, str]]]:
    line = 0
    for path in sorted(source.glob(f"*{PARQUET_SUFFIX}")) if source.is_dir() else [source]:
        try:
            with pq.ParquetFile(path) as file:
                _check_header(path, file.schema_arrow.names)
                for batch in file.iter_batches(_PARQUET_ROWS):
                    for row in batch.to_pylist():
                        line += 1
                        said = {name: value for name, value in row.items() if value is not None}
                        yield line, {name: _text(path, line, name, value) for name, value in said.items()}
        except (pa.ArrowException, OSError) as error:
            raise SetupError(f"{path}: is no Parquet file that can be read: {error}") from error


def _check_header(source: Path, header: list[str]) -> None:
    lacking = [name for name in ("path", "item_id") if name not in header]
    if lacking:
        raise SetupError(
            f"{source}:1: lacks the columns: {', '.join(lacking)}", allowed="path, item_id, title, url, ..."
        )
    if "" in header or len(set(header)) != len(header):
        raise SetupError(f"{source}:1: a column has no name or the name of another: {', '.join(header)}")


def _json_rows(source: Path) -> Iterator[tuple[int, dict[str, str]]]:
    with source.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                raise SetupError(f"{source}:{line}: is no JSON: {error.msg} at column {error.colno}") from error
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, or nested without end
                raise SetupError(f"{source}:{line}: cannot be read: {error}") from error
            if not isinstance(row, dict):
                raise SetupError(f"{source}:{line}: is no JSON object")
            yield line, {name: _text(source, line, name, value) for name, value in row.items() if value is not None}


def _text(source: Path, line: int, name: str, value: Any) -> str:
    if isinstance(value, str):
        try:
            (name + value).encode()
        except UnicodeEncodeError as error:
            raise SetupError(f"{source}:{line}: {name!a} holds half a character: {error.reason}") from error
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise SetupError(f"{source}:{line}: {name} is a {type(value).__name__}", allowed="a string, a number or a boolean")


def _read_folder(folder: Path, levels: Sequence[str]) -> Catalogue:
    found = list(folder_items(folder, levels))
    items = [item for item in found if item is not None]
    return Catalogue(folder, items, ignored=len(found) - len(items))


def folder_items(folder: Path, levels: Sequence[str]) -> Iterator[Item | None]:
    """Yield the images below a folder one by one, and None for each file that is no image.

    Raises:
        SetupError: a folder cannot be read.
    """
    for path in _files(folder):
        is_image = path.suffix.lower() in IMAGE_SUFFIXES
        yield folder_item(path.relative_to(folder), path, _caption(path), levels) if is_image else None


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below `folder` in a stable order; hidden files and folders are left out."""
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _raise(error: OSError) -> None:
    raise SetupError(f"folder {error.filename} cannot be read: {error.strerror}") from error


def folder_item(inside: PurePath, file: ImageFile, title: str | None, levels: Sequence[str]) -> Item:
    """Return the image that lies `inside` a folder as an item: its path is its id, its folders are attributes."""
    attributes = dict(zip(levels, map(printable, inside.parts[:-1]), strict=False))
    return Item(item_id=printable(inside.as_posix()), path=file, title=title, attributes=attributes)


def printable(name: str) -> str:
    """Return a file's name with line breaks, and bytes that are no UTF-8, as escapes: an id is one line of text."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)


def _caption(path: Path) -> str | None:
    """Return the first line of the text file beside the image, or None."""
    try:
        with path.with_suffix(".txt").open("rb") as file:
            return first_line(file.read(CAPTION_BYTES))
    except OSError:
        return None


def first_line(data: bytes) -> str | None:
    """Return the first line of a text, or None when there is nothing in it."""
    return data.decode(errors="replace").partition("\n")[0][:1000].strip() or None
