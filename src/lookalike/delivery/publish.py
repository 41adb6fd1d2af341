"""The end of a parallel build: all shards, one version, published once."""

import json
import time
from dataclasses import asdict
from pathlib import Path

from lookalike.config import IndexSettings
from lookalike.delivery.builds import BUILDS, Build, Plan, ShardReport, shard_name
from lookalike.delivery.index_store import IndexStore
from lookalike.delivery.shard_file import read_shard
from lookalike.delivery.transfer import fetch_file
from lookalike.errors import SetupError, StoreDamaged, StoreError, StoreMissing, VectorIndexError
from lookalike.index.draft import Draft
from lookalike.index.edits import Edit, build_settings
from lookalike.index.items import ItemRecord
from lookalike.index.layout import version_number
from lookalike.index.manifest import ITEMS, VECTORS, Manifest
from lookalike.index.merge import merge_records
from lookalike.index.store import KnownEmbeddings
from lookalike.index.writer import IndexWriter

_LOOK_S = 5.0
_PUBLISHED = "published"


def publish_build(target: IndexStore, build: Build, settings: IndexSettings, work_dir: Path, wait_s: float = 0) -> Edit:
    """Make one version of a build's shards and publish it; a build that was published stays as it is.

    Raises:
        SetupError: a shard is missing after `wait_s`, doubled or foreign, by name; or no image could be read.
        StoreMoved: another version was published since the build began; its changes would be lost.
        StoreDamaged: a shard is not what its report says.
    """
    done = build.store.read_if_there(build.object_name(_PUBLISHED))
    if done is not None:
        return Edit(target.manifest(done.decode().strip()), published=False)
    plan, reports = _finished(build, wait_s)
    records, known = _gathered(build, plan, reports, work_dir)
    merged = merge_records([], records, plan.duplicates)
    problems = [problem for report in reports.values() for problem in report.problems] + merged.duplicates
    if problems:
        lines = "".join(json.dumps(asdict(problem), ensure_ascii=False) + "\n" for problem in problems)
        build.store.put(build.object_name("problems.jsonl"), lines.encode())
    if not merged.records:
        raise SetupError(f"build {build.name}: none of its {plan.items} images can be read: nothing was published")
    manifest, is_new = _publish(target, plan, _draft(plan, merged.records, settings), known, work_dir)
    build.store.put(build.object_name(_PUBLISHED), f"{manifest.version}\n".encode())
    target.remove_old(settings.keep_versions)
    _remove_older(build, plan)
    embedded = sum(report.embedded for report in reports.values())
    return Edit(manifest, is_new, added=len(merged.records), embedded=embedded, problems=problems)


def _finished(build: Build, wait_s: float) -> tuple[Plan, dict[int, ShardReport]]:
    """Return the plan and all its shards, waiting for those that are not finished."""
    end_s = time.monotonic() + wait_s
    while True:
        try:
            plan = build.plan()
            reports = build.reports(plan)
            if len(reports) == plan.count:
                return plan, reports
            missing = [shard_name(index, plan.count) for index in range(plan.count) if index not in reports]
            problem = SetupError(f"build {build.name} lacks {len(missing)} of {plan.count} shards: {_some(missing)}")
        except StoreMissing as error:
            problem = error
        if time.monotonic() >= end_s:
            raise problem
        time.sleep(min(_LOOK_S, max(0.0, end_s - time.monotonic())))


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _gathered(
    build: Build, plan: Plan, reports: dict[int, ShardReport], work_dir: Path
) -> tuple[list[ItemRecord], KnownEmbeddings]:
    """Return the items of all shards in the catalogue's order, and their embeddings."""
    known, by_row = KnownEmbeddings(plan.dim), dict[int, tuple[ItemRecord, str]]()
    for index, report in reports.items():
        name = shard_name(index, plan.count)
        path = work_dir / f"{name}.arrow"
        fetch_file(build.store, build.object_name(path.name), path, report.file)
        for block in read_shard(path, plan.dim):
            known.include([record.content_sha256 for record in block.records], block.embeddings)
            for row, record in zip(block.rows, block.records, strict=True):
                if row in by_row:
                    raise SetupError(
                        f"build {build.name}: item {record.item_id!r} is in {by_row[row][1]} and again in {name}"
                    )
                by_row[row] = (record, name)
    unreadable = sum(len(report.problems) for report in reports.values())
    if len(by_row) + unreadable != plan.items:
        raise StoreDamaged(
            f"build {build.name}: its shards account for {len(by_row) + unreadable} of {plan.items} items"
        )
    return [by_row[row][0] for row in sorted(by_row)], known


def _draft(plan: Plan, records: list[ItemRecord], settings: IndexSettings) -> Draft:
    build = build_settings(settings, plan.preparation)
    return Draft(plan.embedder, plan.fingerprint, plan.dim, settings.kind, build, records)


def _publish(
    target: IndexStore, plan: Plan, draft: Draft, known: KnownEmbeddings, work_dir: Path
) -> tuple[Manifest, bool]:
    numbers = [version_number(name) for name in target.version_names()]
    with IndexWriter(work_dir / "index", keep_versions=1) as writer:
        manifest, _ = writer.publish(draft, known, None, after=max(numbers, default=0))
    in_use = _in_use(target)
    if in_use is not None and _same(in_use, manifest):
        return in_use, False
    return target.publish(work_dir / "index/versions" / manifest.version, plan.over), True


def _in_use(target: IndexStore) -> Manifest | None:
    current = target.pointers().current
    try:
        return None if current is None else target.manifest(current)
    except (StoreMissing, VectorIndexError):
        return None  # a damaged version does not hinder a new one


def _same(one: Manifest, other: Manifest) -> bool:
    """Tell whether two versions hold the same items and embeddings in the same structure; a graph may differ."""
    fields = ("embedder", "fingerprint", "dim", "kind", "build")
    alike = all(getattr(one, field) == getattr(other, field) for field in fields)
    return alike and all(one.files.get(name) == other.files.get(name) for name in (VECTORS, ITEMS))


def _remove_older(build: Build, plan: Plan) -> None:
    """Remove the builds that began before: this one lends its embeddings to the next, and theirs cannot publish."""
    for other in build.others():
        try:
            began_before = other.plan().begun < plan.begun
        except StoreError:
            began_before = True  # it cannot be read, by no shard either
        if began_before:
            build.store.remove(f"{BUILDS}/{other.name}")
