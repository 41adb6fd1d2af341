"""From the Parquet files of a finished bulk run to a version of the index."""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lookalike.bulk.output import PROBLEMS, BulkOutput, BulkPlan, PartReport
from lookalike.config import IndexSettings
from lookalike.errors import SetupError, StoreDamaged
from lookalike.index.draft import Draft
from lookalike.index.durable import told_when_not_stored
from lookalike.index.edits import Edit, build_settings, lender, write_report
from lookalike.index.items import ItemRecord
from lookalike.index.merge import merge_records
from lookalike.index.store import KnownEmbeddings
from lookalike.index.writer import IndexWriter
from lookalike.ingest import Duplicates, Problem


def load_embeddings(output: BulkOutput, index_dir: Path, settings: IndexSettings, duplicates: Duplicates) -> Edit:
    """Publish a version that holds what the run has embedded and nothing else.

    Raises:
        SetupError: the run is not finished, or nothing of it could be read.
        StoreDamaged: a file is not what the run wrote.
        IndexBusy: another process is writing.
    """
    plan, summary = output.plan(), output.summary()
    if plan is None or summary is None:
        raise SetupError(f"{output.store.url} holds no finished run; start `lookalike embed` again to go on with it")
    reports = output.reports()
    problems = [Problem(**json.loads(line)) for line in output.store.read(PROBLEMS).splitlines()]
    if not summary.items:
        raise SetupError(f"none of the {plan.items} images of {plan.source} can be read: nothing was published")
    with IndexWriter(index_dir, settings.keep_versions) as writer, TemporaryDirectory(dir=index_dir) as work:
        with told_when_not_stored(index_dir):
            known = _gathered(output, plan, reports, Path(work) / "embeddings.f32")
        records = [record for record in _records(output, reports) if record.content_sha256 in known]
        if len(records) != summary.items:
            raise StoreDamaged(f"{output.store.url} has {len(records)} items, its summary says {summary.items}")
        merged = merge_records([], records, duplicates)
        problems += merged.duplicates
        build = build_settings(settings, plan.preparation)
        draft = Draft(plan.embedder, plan.fingerprint, plan.dim, settings.kind, build, merged.records)
        manifest, is_new = writer.publish(draft, known, lender(writer, plan.fingerprint, plan.preparation))
        report = write_report(writer.layout.reports_dir, problems)
    return Edit(
        manifest,
        is_new,
        added=len(merged.records),
        ignored_files=plan.ignored_files,
        problems=problems,
        report=report,
    )


def _gathered(output: BulkOutput, plan: BulkPlan, reports: list[PartReport], path: Path) -> KnownEmbeddings:
    """Copy all embeddings into one file that is read by memory map: they may exceed the memory."""
    known, keys = KnownEmbeddings(plan.dim), list[bytes]()
    with path.open("wb") as file:
        for _, table in output.tables("embeddings", reports):
            keys += table["content_sha256"].to_pylist()
            file.write(_matrix(output, table, plan.dim).data)
    if keys:
        known.include(keys, np.memmap(path, dtype=np.float32, mode="r", shape=(len(keys), plan.dim)))
    return known


def _matrix(output: BulkOutput, table: pa.Table, dim: int) -> NDArray[np.float32]:
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    if flat.dtype != np.float32 or len(flat) != len(table) * dim:
        raise StoreDamaged(f"{output.store.url} holds embeddings that are not {dim} float32 numbers each")
    return np.ascontiguousarray(flat).reshape(-1, dim)


def _records(output: BulkOutput, reports: list[PartReport]) -> Iterator[ItemRecord]:
    for _, table in output.tables("items", reports):
        for row in table.to_pylist():
            yield ItemRecord.of_row(row, _attributes(row))


def _attributes(row: dict[str, Any]) -> dict[str, str]:
    return dict(row["attributes"] or [])
