"""The list of items that a bulk run takes, written once: a source may change while a run is broken off and goes on."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from io import BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.bulk.output import PARTS_A_FILE, BulkOutput, list_file
from lookalike.catalogue import (
    CAPTION_BYTES,
    IMAGE_SUFFIXES,
    LINES_SUFFIXES,
    PARQUET_SUFFIX,
    TABLE_SUFFIXES,
    Item,
    first_line,
    folder_item,
    folder_items,
    table_items,
)
from lookalike.delivery.store import Store, open_store
from lookalike.delivery.store_file import StoreFile, is_address, store_file
from lookalike.errors import SetupError, StoreDamaged

_COPY_BYTES = 1 << 23
_ID_BYTES = 16  # of the hash of an item_id
_TABLES = {*TABLE_SUFFIXES, *LINES_SUFFIXES, PARQUET_SUFFIX}


class Listed(NamedTuple):
    """What was found in a source."""

    items: int
    ignored_files: int


def write_list(source: str, levels: Sequence[str], output: BulkOutput, part_items: int) -> Listed:
    """Write the items of `source` into the output, `part_items` to a row group.

    Memory does not grow with the list, but for 16 bytes an item, and for the names in a folder of a store.

    Raises:
        SetupError: naming the file and the line that is wrong, or an item_id that comes twice.
    """
    ignored = items = number = 0
    hashes = bytearray()

    def taken() -> Iterator[Item]:
        nonlocal ignored
        for item in source_items(source, levels):
            if item is None:
                ignored += 1
            else:
                hashes.extend(_hash_of(item.item_id))
                yield item

    wanted = taken()
    while block := list(islice(wanted, part_items * PARTS_A_FILE)):
        buffer = BytesIO()
        pq.write_table(_table(block), buffer, row_group_size=part_items, compression="zstd")
        output.store.put(list_file(number), buffer.getvalue())
        items, number = items + len(block), number + 1
    if not items:
        raise SetupError(f"{source} holds no image: nothing was embedded")
    if (twice := _coming_twice(hashes)) is not None:
        name = next(item.item_id for item in source_items(source, levels) if item and _hash_of(item.item_id) == twice)
        raise SetupError(f"{source}: item_id {name!r} is given twice")
    return Listed(items, ignored)


def source_items(source: str, levels: Sequence[str]) -> Iterator[Item | None]:
    """Yield the items of a folder or a table of this machine or of a store; None for a file that is no image.

    Raises:
        SetupError: naming the file and the line that is wrong.
    """
    is_table = PurePosixPath(source).suffix.lower() in _TABLES
    if not is_address(source):
        if Path(source).is_dir() and PurePosixPath(source).suffix.lower() != PARQUET_SUFFIX:
            yield from folder_items(Path(source), levels)
        else:
            yield from (item for _, item in table_items(Path(source)))
    elif is_table:
        with TemporaryDirectory(prefix="lookalike-list-") as work:
            yield from (item for _, item in table_items(_fetched(source, Path(work)), near=source.rpartition("/")[0]))
    else:
        yield from _store_items(open_store(source), levels)


def _store_items(store: Store, levels: Sequence[str]) -> Iterator[Item | None]:
    names = store.files()
    texts = {name for name in names if name.endswith(".txt")}
    for name in names:
        inside = PurePosixPath(name)
        if inside.suffix.lower() not in IMAGE_SUFFIXES:
            yield None
            continue
        text = str(inside.with_suffix(".txt"))
        title = first_line(store.read_block(text, 0, CAPTION_BYTES)) if text in texts else None
        yield folder_item(inside, StoreFile(store, name), title, levels)


def _fetched(address: str, work_dir: Path) -> Path:
    """Copy a table of a store, or all files of one that is a folder named `*.parquet`."""
    folder, _, name = address.rstrip("/").rpartition("/")
    store = open_store(folder)
    parts = [part for part in store.files(name) if part.endswith(PARQUET_SUFFIX)] if store.size(name) is None else [""]
    for part in parts:
        target = work_dir / name / part if part else work_dir / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(store, f"{name}/{part}" if part else name, target)
    return work_dir / name


def _copy(store: Store, name: str, target: Path) -> None:
    size = store.size(name) or 0
    with target.open("wb") as file:
        for start in range(0, size, _COPY_BYTES):
            file.write(store.read_block(name, start, min(size, start + _COPY_BYTES)))


def _hash_of(item_id: str) -> bytes:
    return hashlib.blake2b(item_id.encode(), digest_size=_ID_BYTES).digest()


def _coming_twice(hashes: bytearray) -> bytes | None:
    """Return a hash that comes twice, or None."""
    # Compared as bytes of a fixed length, which numpy sorts without an object each.
    ordered = np.sort(np.frombuffer(hashes, dtype=f"S{_ID_BYTES}"))
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    return bytes(ordered[twice[0]]).ljust(_ID_BYTES, b"\0") if len(twice) else None


def _table(items: Sequence[Item]) -> pa.Table:
    text = pa.string()
    columns = {
        "item_id": pa.array([item.item_id for item in items], text),
        # As bytes: a file's name need not be UTF-8.
        "path": pa.array([_path_bytes(item) for item in items], pa.binary()),
        "title": pa.array([item.title for item in items], text),
        "url": pa.array([item.url for item in items], text),
        "attributes": pa.array([list(item.attributes.items()) for item in items], pa.map_(text, text)),
    }
    return pa.table(columns)


def _path_bytes(item: Item) -> bytes:
    return os.fsencode(os.path.abspath(item.path)) if isinstance(item.path, Path) else str(item.path).encode()


def part_of_list(store: Store, part: int) -> list[Item]:
    """Return the items of a part as the list has them.

    Raises:
        StoreDamaged: the list was altered.
    """
    number, group = divmod(part, PARTS_A_FILE)
    try:
        rows = _list(store, number).read_row_group(group).to_pylist()
    except (pa.ArrowException, OSError, IndexError) as error:
        raise StoreDamaged(f"{store.url}/{list_file(number)} cannot be read: {error}") from error
    return [_item(row) for row in rows]


@lru_cache(maxsize=2)
def _list(store: Store, number: int) -> Any:
    return pq.ParquetFile(BytesIO(store.read(list_file(number))))


def _item(row: dict[str, Any]) -> Item:
    path = os.fsdecode(row["path"])
    file = store_file(path) if is_address(path) else Path(path)
    return Item(row["item_id"], file, row["title"], row["url"], dict(row["attributes"] or []))
