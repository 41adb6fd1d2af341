"""What the index commands print: counts and problems of an edit, a version's origin, hits."""

import json
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lookalike.index.edits import Edit
from lookalike.index.layout import IndexLayout
from lookalike.index.manifest import Manifest
from lookalike.index.verify import RecallReport
from lookalike.schemas import Hit, IndexInfo

_NAMED = 10  # problems that are printed; the report file has all


def print_edit(edit: Edit) -> None:
    """Print what was done on stdout, and what could not be done on stderr."""
    for problem in edit.problems[:_NAMED]:
        typer.echo(f"{problem.kind}: {problem.path}: {problem.reason}", err=True)
    if edit.report is not None:
        typer.echo(f"problems: {len(edit.problems)}, all named in {edit.report}", err=True)
    for item_id in edit.unknown_ids[:_NAMED]:
        typer.echo(f"unknown item_id: {item_id}", err=True)
    if len(edit.unknown_ids) > _NAMED:
        typer.echo(f"{len(edit.unknown_ids) - _NAMED} more unknown item_ids", err=True)
    counts = {
        "added": edit.added,
        "replaced": edit.replaced,
        "removed": edit.removed,
        "embedded now": edit.embedded,
        "kept as they were": edit.kept_existing,
        "unreadable": edit.count("unreadable"),
        "duplicates": edit.count("duplicate"),
        "unknown ids": len(edit.unknown_ids),
        "other files ignored": edit.ignored_files,
    }
    typer.echo(", ".join(f"{name} {count}" for name, count in counts.items() if count) or "nothing to do")
    state = "is published" if edit.published else "stays: nothing changed"
    typer.echo(f"{edit.manifest.version} {state}: {edit.manifest.count} items, {edit.manifest.kind}")


def print_info(manifest: Manifest, layout: IndexLayout, as_json: bool) -> None:
    """Print a version's manifest and the versions on disk."""
    versions, in_use = layout.version_names(), layout.current_version()
    if as_json:
        typer.echo(json.dumps({**manifest.model_dump(), "versions": versions, "published": in_use}, indent=2))
        return
    table = Table(show_header=False, box=None)
    megabytes = sum(entry.bytes for entry in manifest.files.values()) / 1e6
    rows = {
        "version": manifest.version + (" (published)" if manifest.version == in_use else ""),
        "created": manifest.created,
        "items": str(manifest.count),
        "kind": _told_kind(manifest),
        "embedder": f"{manifest.embedder}, fingerprint {manifest.fingerprint}",
        "embeddings": f"{manifest.dim} x {manifest.dtype}, {manifest.metric}",
        "preparation": manifest.build.preparation,
        "attributes": ", ".join(manifest.attributes) or "none",
        "size": f"{megabytes:.1f} MB in {len(manifest.files)} files",
        "on disk": ", ".join(versions),
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    Console().print(table, highlight=False)


def _told_kind(manifest: Manifest) -> str:
    build, details = manifest.build, []
    if manifest.kind == "hnsw":
        details.append(f"M {build.hnsw_m}, efConstruction {build.ef_construction}")
    if build.kind_by_count:
        details.append("chosen by the count")
    return manifest.kind + (f" ({'; '.join(details)})" if details else "")


def print_recall(report: RecallReport, kind: str) -> None:
    """Print how the search compares with exact search."""
    typer.echo(
        f"ann_recall_at_{report.k} {report.ann_recall_at_k:.4f} over {report.queries} queries; "
        f"{kind} p50 {report.p50_ms:.2f} ms, exact p50 {report.exact_p50_ms:.2f} ms"
    )


def print_hits(hits: Sequence[Hit], info: IndexInfo, as_json: bool) -> None:
    """Print the hits as a table, or as JSON."""
    if as_json:
        typer.echo(json.dumps({"hits": [hit.model_dump() for hit in hits], "index": info.model_dump()}, indent=2))
        return
    table = Table(title=f"index {info.version}, {info.count} items, {info.kind}", title_justify="left")
    for column in ("rank", "similarity"):
        table.add_column(column, justify="right")
    for column in ("item_id", "title", "attributes"):
        table.add_column(column, overflow="fold")
    for rank, hit in enumerate(hits, start=1):
        attributes = ", ".join(f"{name}={value}" for name, value in hit.attributes.items())
        cells = (str(rank), f"{hit.similarity:.3f}", hit.item_id, hit.title or "", attributes)
        table.add_row(*map(escape, cells))
    Console().print(table, highlight=False)
