"""One share of a parallel build: embedded as an ingest does it, and put into the store where publishing finds it."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.catalogue import Catalogue
from lookalike.config import IndexSettings
from lookalike.delivery.builds import Build, Plan, ShardReport, shard_name, share_of, source_digest
from lookalike.delivery.index_store import IndexStore
from lookalike.delivery.shard_file import read_shard, write_shard
from lookalike.delivery.transfer import fetch_file
from lookalike.errors import SetupError, StoreError
from lookalike.index.durable import sha256_of
from lookalike.index.edits import record_of
from lookalike.index.manifest import FileEntry
from lookalike.index.store import EmbeddingStore, KnownEmbeddings
from lookalike.ingest import ImageEmbedder, Ingest, IngestOptions
from lookalike.progress import progress_shown

log = logging.getLogger(__name__)


class ShardBuilder:
    """Embeds share `index` of `count` of a catalogue into a build; what was embedded once is not embedded again."""

    def __init__(self, target: IndexStore, build: Build, index: int, count: int, work_dir: Path) -> None:
        """`work_dir` is scratch space.

        Raises:
            SetupError: there is no such share.
        """
        if not 0 <= index < count:
            raise SetupError(f"there is no shard {index} of {count}", allowed=f"0 to {count - 1}")
        self._target, self._build, self._work_dir = target, build, work_dir
        self._index, self._count, self._name = index, count, shard_name(index, count)

    def run(
        self, catalogue: Catalogue, embedder: ImageEmbedder, options: IngestOptions, settings: IndexSettings
    ) -> ShardReport:
        """Embed the share and put it into the store; return what came of it.

        Raises:
            SetupError: the build was begun with another source, embedder or number of shards.
            StoreError: the store refuses or does not answer.
        """
        plan = self._build.join(self._own_plan(catalogue, embedder, options))
        share = share_of(catalogue.items, self._index, self._count)
        chunks = _KeptChunks(self._build, self._name.removeprefix("shard-"), self._work_dir, embedder)
        self._lend(plan, chunks.known)
        items = [item for _, item in share]
        with progress_shown(f"embedding shard {self._index} of {self._count}", len(items)) as advance:
            embedded = Ingest(embedder, chunks, options, settings.chunk_items).run(items, advance)
        keys = embedded.content_sha256
        taken = [(row, record_of(item, keys[item.item_id])) for row, item in share if item.item_id in keys]
        path = self._work_dir / f"{self._name}.arrow"
        write_shard(path, [row for row, _ in taken], [record for _, record in taken], chunks.known)
        report = ShardReport(
            index=self._index,
            plan_sha256=plan.digest(),
            file=FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size),
            items=len(taken),
            embedded=embedded.new_embeddings,
            problems=embedded.problems,
        )
        self._send(plan, report, path)
        chunks.remove()
        return report

    def _send(self, plan: Plan, report: ShardReport, path: Path) -> None:
        before = self._build.report(plan, self._index)
        if before is not None and before.file == report.file:
            return
        self._build.store.upload(path, self._build.object_name(path.name))
        self._build.store.put(self._build.object_name(f"{self._name}.json"), report.model_dump_json().encode())

    def _own_plan(self, catalogue: Catalogue, embedder: ImageEmbedder, options: IngestOptions) -> Plan:
        return Plan(
            build=self._build.name,
            begun=datetime.now(UTC).isoformat(),
            count=self._count,
            embedder=embedder.name,
            fingerprint=embedder.fingerprint,
            dim=embedder.dim,
            preparation=embedder.preparation,
            duplicates=options.duplicates,
            items=len(catalogue.items),
            source_sha256=source_digest(catalogue),
            over=self._target.pointers().current,
        )

    def _lend(self, plan: Plan, known: KnownEmbeddings) -> None:
        """Know the embeddings of this shard as an earlier attempt or the build before made it."""
        own = self._build.report(plan, self._index)
        lender, report = (self._build, own) if own is not None else self._build_before(plan)
        if lender is None or report is None:
            return
        path = self._work_dir / f"lent-{self._name}.arrow"
        try:
            fetch_file(self._build.store, lender.object_name(f"{self._name}.arrow"), path, report.file)
            for block in read_shard(path, plan.dim):
                known.include([record.content_sha256 for record in block.records], block.embeddings)
        except StoreError as error:
            log.warning("build %s lends no embeddings: %s", lender.name, error.message)

    def _build_before(self, plan: Plan) -> tuple[Build | None, ShardReport | None]:
        """Return the last build that has this shard by the same embedder."""
        found: list[tuple[str, Build, ShardReport]] = []
        for other in self._build.others():
            with suppress(StoreError):
                theirs = other.plan()
                report = other.report(theirs, self._index)
                if report is not None and _alike(plan, theirs):
                    found.append((theirs.begun, other, report))
        return max(found, key=lambda one: one[0])[1:] if found else (None, None)


def _alike(plan: Plan, other: Plan) -> bool:
    fields = ("count", "fingerprint", "preparation", "dim")
    return all(getattr(plan, field) == getattr(other, field) for field in fields)


class _KeptChunks(EmbeddingStore):
    """Chunks of embeddings that are in the store as well: another machine goes on where this one ended."""

    def __init__(self, build: Build, share: str, work_dir: Path, embedder: ImageEmbedder) -> None:
        self._build, self._share = build, f"chunks/{share}"
        folder = EmbeddingStore(work_dir, embedder.fingerprint, embedder.preparation, embedder.dim).folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in build.store.names(build.object_name(self._share)):
            (folder / Path(name).name).write_bytes(build.store.read(build.object_name(f"{self._share}/{name}")))
        super().__init__(work_dir, embedder.fingerprint, embedder.preparation, embedder.dim)
        self._sent = {path.name for path in folder.glob("*.npy")}

    def save(self, keys: Sequence[bytes], embeddings: NDArray[np.float32]) -> None:
        """Keep `embeddings` `(n, dim)`, here and in the store."""
        super().save(keys, embeddings)
        for path in self.folder.glob("*.npy"):
            if path.name not in self._sent:
                self._build.store.upload(path, self._build.object_name(f"{self._share}/{path.name}"))
                self._sent.add(path.name)

    def remove(self) -> None:
        """Remove the chunks from the store: a finished shard holds them."""
        if self._sent:
            self._build.store.remove(self._build.object_name(self._share))
