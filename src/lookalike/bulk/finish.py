"""The end of a bulk run: each image has one embedding or a reason, and the two reports say so."""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lookalike.bulk.output import PROBLEMS, SUMMARY, BulkOutput, BulkPlan, PartReport, Summary
from lookalike.errors import StoreDamaged
from lookalike.ingest import Problem

log = logging.getLogger(__name__)
Keys = NDArray[np.bytes_]
_KEY = "S32"  # of a sha256: numpy compares such keys without an object for each


def finish(output: BulkOutput, plan: BulkPlan) -> Summary | None:
    """Check that the finished parts fit together and write `problems.jsonl` and `summary.json`.

    Return None when some do not, as a run that was killed may have written into the next one: these are forgotten, to
    be made again.
    """
    reports = output.reports()
    unsound = _unsound(output, plan, reports)
    if unsound:
        log.warning("%d parts do not fit the others and are made again", len(unsound))
        for part in unsound:
            output.forget(part)
        return None
    failed = {key: reason for report in reports for key, reason in report.failed.items()}
    problems = [problem for report in reports for problem in report.problems]
    problems += _failed_elsewhere(output, reports, failed)
    lines = "".join(json.dumps(asdict(problem), ensure_ascii=False) + "\n" for problem in problems)
    output.store.put(PROBLEMS, lines.encode())
    taken = plan.items - len(problems)
    embeddings = sum(report.embedded for report in reports)
    summary = Summary(
        items=taken,
        embeddings=embeddings,
        duplicates=taken - embeddings,
        unreadable=len(problems),
        ignored_files=plan.ignored_files,
    )
    output.store.put(SUMMARY, summary.model_dump_json(indent=2).encode())
    return summary


def _unsound(output: BulkOutput, plan: BulkPlan, reports: list[PartReport]) -> set[int]:
    """Return the parts that are damaged, that lack an embedding, or that have one which an earlier part has."""
    items, embedded = dict[int, Keys](), dict[int, Keys]()
    unsound: set[int] = set()
    for report in reports:
        try:
            items[report.part] = _keys(output, "items", report, report.items)
            embedded[report.part] = _keys(output, "embeddings", report, report.embedded)
        except StoreDamaged as error:
            log.warning("%s", error.message)
            unsound.add(report.part)
    failed = [bytes.fromhex(key) for report in reports for key in report.failed]
    known = np.concatenate([np.empty(0, _KEY), *embedded.values(), np.array(failed, dtype=_KEY)])
    unsound |= {part for part, keys in items.items() if not np.isin(keys, known).all()}
    return unsound | _doubled(embedded) | (set(range(plan.parts)) - items.keys() - unsound)


def _keys(output: BulkOutput, folder: Literal["items", "embeddings"], report: PartReport, count: int) -> Keys:
    """Return the sha256 of a table's rows `(count,)`.

    Raises:
        StoreDamaged: the table is missing, altered, or of another number of rows.
    """
    if not count:
        return np.empty(0, _KEY)
    column = output.table(folder, report.part, ["content_sha256"])["content_sha256"].combine_chunks()
    if len(column) != count:
        raise StoreDamaged(f"{output.store.url}: {folder} of part {report.part} has {len(column)} rows, not {count}")
    return np.frombuffer(column.buffers()[1], dtype=_KEY)[column.offset : column.offset + count]


def _doubled(embedded: dict[int, Keys]) -> set[int]:
    """Return the parts with an embedding that an earlier part has."""
    owners = np.repeat(np.array(list(embedded), dtype=np.int64), [len(keys) for keys in embedded.values()])
    _, first = np.unique(np.concatenate([np.empty(0, _KEY), *embedded.values()]), return_index=True)
    later = np.ones(len(owners), dtype=bool)
    later[first] = False
    return set(owners[later].tolist())


def _failed_elsewhere(output: BulkOutput, reports: list[PartReport], failed: dict[str, str]) -> Iterator[Problem]:
    """Yield the items whose image another part was to embed and could not."""
    if not failed:
        return
    keys = pa.array([bytes.fromhex(key) for key in failed], pa.binary(32))
    for _, table in output.tables("items", reports, ["item_id", "path", "content_sha256"]):
        for row in table.filter(pc.is_in(table["content_sha256"], value_set=keys)).to_pylist():
            yield Problem("unreadable", row["item_id"], row["path"], failed[row["content_sha256"].hex()])
