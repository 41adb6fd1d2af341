"""Which items the next version holds: those from before in their rows, changed ones in place, new ones behind them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from lookalike.index.items import ItemRecord
from lookalike.ingest import Problem


@dataclass
class Merged:
    """The rows of the next version, and how they came about."""

    records: list[ItemRecord]
    added: int = 0
    replaced: int = 0
    duplicates: list[Problem] = field(default_factory=list)


def merge_records(
    before: Sequence[ItemRecord], incoming: Sequence[ItemRecord], duplicates: Literal["skip", "keep"]
) -> Merged:
    """Put `incoming` items over those from `before`: the same item_id replaces, any other is appended.

    An incoming item whose image another item has already is reported, and left out when `duplicates` is `skip`; an
    older item of its id then stays as it was.
    """
    replaced_ids = {record.item_id for record in incoming}
    rows = {record.item_id: record for record in before}
    holder = {record.content_sha256: record.item_id for record in before if record.item_id not in replaced_ids}
    merged = Merged([])
    for record in incoming:
        old = rows.get(record.item_id)
        first = holder.setdefault(record.content_sha256, record.item_id)
        if first != record.item_id:
            merged.duplicates.append(_duplicate(record, first, duplicates))
            if duplicates == "skip":
                if old is not None:
                    holder.setdefault(old.content_sha256, old.item_id)
                continue
        merged.added += old is None
        merged.replaced += old is not None and old != record
        rows[record.item_id] = record
    merged.records = list(rows.values())
    return merged


def _duplicate(record: ItemRecord, first: str, duplicates: str) -> Problem:
    done = "skipped" if duplicates == "skip" else "kept"
    return Problem("duplicate", record.item_id, record.path, f"the same image as item {first!r}; {done}")
