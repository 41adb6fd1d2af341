"""The items of a version: columns on disk, memory-mapped, and which rows a filter lets through."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lookalike.errors import IndexDamaged
from lookalike.index.queries import check_filters
from lookalike.schemas import Filters, Hit

_ATTRIBUTE = "attr:"
# 64-bit offsets: the paths of ten million items exceed the 2 GiB that 32-bit offsets reach.
_COLUMNS = {
    "item_id": pa.large_string(),
    "title": pa.large_string(),
    "url": pa.large_string(),
    "path": pa.large_string(),
    "content_sha256": pa.binary(32),
}


@dataclass(frozen=True)
class ItemRecord:
    """One item of the catalogue as the index keeps it; `content_sha256` is of the encoded image, 32 bytes."""

    item_id: str
    content_sha256: bytes
    path: str
    title: str | None = None
    url: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_row(cls, row: dict[str, Any], attributes: dict[str, str]) -> "ItemRecord":
        """Return the item of a table's row, which may have more columns than an item's own."""
        return cls(attributes=attributes, **{name: row[name] for name in _COLUMNS})


def write_items(path: Path, records: Sequence[ItemRecord]) -> list[str]:
    """Write the records as one Arrow file, row by row in their order; return the names of the attributes."""
    attributes = sorted({name for record in records for name in record.attributes})
    columns: dict[str, Any] = {
        name: pa.array([getattr(record, name) for record in records], kind) for name, kind in _COLUMNS.items()
    }
    for name in attributes:
        values = pa.array([record.attributes.get(name) for record in records], pa.string())
        columns[_ATTRIBUTE + name] = values.dictionary_encode()
    table = pa.table(columns)
    with path.open("wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return attributes


class Items:
    """The items of one version, read from a memory map."""

    def __init__(self, table: pa.Table) -> None:
        # One chunk a column: rows are then found without a search for their chunk.
        self._table = table.combine_chunks()
        self.attributes = [name.removeprefix(_ATTRIBUTE) for name in table.column_names if name.startswith(_ATTRIBUTE)]
        self._codes: dict[str, tuple[dict[str, int], NDArray[np.int32]]] = {}
        # At its first conversion pyarrow imports pandas, where that is installed: seconds, and not within a search.
        pa.array([0])

    @classmethod
    def open(cls, path: Path) -> "Items":
        """Map the file that `write_items` wrote.

        Raises:
            IndexDamaged: it is no such file.
        """
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            table.validate()
        except (pa.ArrowException, OSError) as error:
            raise IndexDamaged(f"index version {path.parent.name}: {path.name} cannot be read: {error}") from error
        schema = {field.name: field.type for field in table.schema}
        lacking = [name for name, kind in _COLUMNS.items() if schema.get(name) != kind]
        if lacking:
            raise IndexDamaged(f"index version {path.parent.name}: {path.name} lacks columns: {', '.join(lacking)}")
        return cls(table)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def item_ids(self) -> list[str]:
        """Return the item_ids in row order."""
        return [str(item_id) for item_id in self._table["item_id"].to_pylist()]

    def records(self) -> list[ItemRecord]:
        """Return all items in row order."""
        return self._records(self._table)

    def page(self, start: int, count: int) -> list[ItemRecord]:
        """Return at most `count` items from row `start` on."""
        return self._records(self._table.slice(start, count))

    def content_hashes(self) -> set[bytes]:
        """Return the sha256 (32 bytes) of every item's image."""
        return set(self._table["content_sha256"].to_pylist())

    def record(self, item_id: str) -> ItemRecord | None:
        """Return the item of this id, or None."""
        row = pc.index(self._table["item_id"], pa.scalar(item_id, pa.large_string())).as_py()
        return None if row < 0 else self._records(self._table.slice(row, 1))[0]

    def rows_of(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each item `(len(item_ids),)`; -1 where there is none of this id."""
        wanted = pa.array(item_ids, pa.large_string())
        # One pass over the column, whatever the number of ids: a lookup table of the catalogue would cost its memory.
        rows = np.flatnonzero(pc.is_in(self._table["item_id"], value_set=wanted).to_numpy(zero_copy_only=False))
        row_of = dict(zip(self._table["item_id"].take(pa.array(rows)).to_pylist(), rows.tolist(), strict=True))
        return np.array([row_of.get(item_id, -1) for item_id in item_ids], dtype=np.int64)

    def validate(self) -> None:
        """Check every value and that no item_id comes twice.

        Raises:
            IndexDamaged: naming what is wrong.
        """
        try:
            self._table.validate(full=True)
        except pa.ArrowException as error:
            raise IndexDamaged(f"items: {error}") from error
        if len(pc.unique(self._table["item_id"])) != len(self):
            raise IndexDamaged("items: an item_id comes twice")

    def qualifying(self, filters: Filters | None) -> NDArray[np.bool_] | None:
        """Return which rows `(count,)` have, for every attribute in `filters`, one of the values listed; None for all.

        Raises:
            InvalidOption: for an attribute that no item has.
        """
        if not filters:
            return None
        check_filters(filters, self.attributes)
        mask = np.ones(len(self), dtype=np.bool_)
        for name, values in filters.items():
            code_of, codes = self._encoded(name)
            allowed = np.zeros(len(code_of) + 1, dtype=np.bool_)  # the last slot is for rows without a value
            allowed[[code_of[value] for value in values if value in code_of]] = True
            mask &= allowed[codes]
        return mask

    def hits(self, rows: NDArray[np.int64], similarities: NDArray[np.float32]) -> list[Hit]:
        """Return the items of `rows` as hits, in that order."""
        columns = ["item_id", "title", "url", *(_ATTRIBUTE + name for name in self.attributes)]
        found = self._table.select(columns).take(pa.array(rows)).to_pylist()
        return [
            Hit(
                item_id=item["item_id"],
                similarity=float(similarity),
                title=item["title"],
                url=item["url"],
                attributes=_attributes(item),
            )
            for item, similarity in zip(found, similarities, strict=True)
        ]

    def _encoded(self, name: str) -> tuple[dict[str, int], NDArray[np.int32]]:
        """Return the attribute's code by value, and each row's code `(count,)`; -1 where it has no value."""
        if name not in self._codes:
            column = self._table[_ATTRIBUTE + name].combine_chunks()
            values = column.dictionary.to_pylist()
            codes = pc.fill_null(column.indices, -1).to_numpy(zero_copy_only=False)
            self._codes[name] = ({value: code for code, value in enumerate(values)}, codes)
        return self._codes[name]

    def _records(self, table: pa.Table) -> list[ItemRecord]:
        return [ItemRecord.of_row(row, _attributes(row)) for row in table.to_pylist()]


def _attributes(item: dict[str, str | None]) -> dict[str, str]:
    return {
        name.removeprefix(_ATTRIBUTE): value
        for name, value in item.items()
        if name.startswith(_ATTRIBUTE) and value is not None
    }
