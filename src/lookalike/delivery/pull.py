"""Brings the versions that a store has in use into an index folder: whole, checked, published by one rename."""

import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from lookalike.delivery.index_store import IndexStore, Pointers, keep_origin, object_name, write_manifest
from lookalike.delivery.transfer import fetch_file
from lookalike.errors import IndexUnavailable, LookalikeError, NotStored
from lookalike.index.durable import told_when_not_stored
from lookalike.index.layout import IndexLayout
from lookalike.index.manifest import Manifest, read_manifest
from lookalike.index.verify import verify_snapshot
from lookalike.index.writer import IndexWriter

log = logging.getLogger(__name__)
_ARRIVING = ".arriving"


@dataclass
class Pulled:
    """What a pull brought: the versions that serve here, those that are new, and what is wrong with any other."""

    wanted: list[str]  # the version to use first
    versions: list[Manifest] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    problems: dict[str, LookalikeError] = field(default_factory=dict)

    def check(self) -> None:
        """Raise what keeps the version to use from being here; one of the embedder before hinders no start."""
        if self.wanted[0] in self.problems:
            raise self.problems[self.wanted[0]]


class IndexPuller:
    """Keeps the index folder of one machine like the store; `fingerprint`: only the version of that embedder."""

    def __init__(self, source: IndexStore, index_dir: Path, keep_versions: int, fingerprint: str | None = None) -> None:
        self._source, self._layout, self._keep_versions = source, IndexLayout(index_dir), keep_versions
        self._fingerprint = fingerprint
        self._arriving = index_dir / _ARRIVING
        self._whole: set[str] = set()  # versions that were read and found whole by this process
        self._in_store: dict[str, Manifest] = {}  # a version never changes: its manifest is read once

    def pull(self) -> Pulled:
        """Get what is not here yet and publish it; what fails is in `problems`, and what was published before stays.

        Raises:
            IndexUnavailable: the store has no version, or none of the embedder.
            IndexBusy, NotStored: another process writes the folder; its disk takes not even a pointer.
            StoreUnreachable, StoreError, IndexDamaged: the store's pointers cannot be read.
        """
        pointers = self._source.pointers()
        if pointers.current is None:
            raise IndexUnavailable(f"{self._source.url} holds no index version", allowed="lookalike index push")
        pulled = Pulled(self._wanted(pointers))
        with IndexWriter(self._layout.index_dir, self._keep_versions) as writer:
            for version in pulled.wanted:
                try:
                    with told_when_not_stored(self._layout.index_dir):
                        pulled.versions.append(self._bring(version, writer, pulled))
                except LookalikeError as error:
                    pulled.problems[version] = error
            with told_when_not_stored(self._layout.index_dir):
                self._publish(pointers, pulled)
            self._remove_old(pulled.wanted, writer)
        return pulled

    def _wanted(self, pointers: Pointers) -> list[str]:
        """Return the versions to have here; that of CURRENT first."""
        serving = [version for version in pointers if version is not None]
        if self._fingerprint is None:
            return serving
        for version in serving:
            if version not in self._in_store:
                self._in_store[version] = self._source.manifest(version)
        manifests = [self._in_store[version] for version in serving]
        fitting = [manifest.version for manifest in manifests if manifest.fingerprint == self._fingerprint]
        if not fitting:
            there = ", ".join(f"{manifest.version} of {manifest.fingerprint}" for manifest in manifests)
            raise IndexUnavailable(
                f"{self._source.url} holds no index of embedder {self._fingerprint}; it holds {there}"
            )
        return fitting[:1]

    def _bring(self, version: str, writer: IndexWriter, pulled: Pulled) -> Manifest:
        here = self._manifest_here(version)
        if here is not None:
            return here
        folder = self._arriving / version
        manifest = write_manifest(folder, self._source.manifest_bytes(version))
        self._check_space(manifest, folder)
        for name, entry in manifest.files.items():
            fetch_file(self._source.store, object_name(version, name), folder / name, entry)
        writer.adopt(folder)
        self._whole.add(version)
        pulled.new.append(version)
        return manifest

    def _manifest_here(self, version: str) -> Manifest | None:
        """Return the manifest of a version that is here and whole; one that is damaged is fetched again."""
        folder = self._layout.versions_dir / version
        if not folder.is_dir():
            return None
        try:
            # Read wholly once: a router that starts relies on it.
            manifest = read_manifest(folder) if version in self._whole else verify_snapshot(folder).manifest
        except LookalikeError as error:
            log.warning("%s; it is fetched again", error.message)
            return None
        self._whole.add(version)
        return manifest

    def _check_space(self, manifest: Manifest, folder: Path) -> None:
        needed = sum(entry.bytes for entry in manifest.files.values())
        needed -= sum(path.stat().st_size for path in folder.iterdir())
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise NotStored(
                f"no space left in {self._layout.index_dir}: index version {manifest.version} needs "
                f"{needed / 1e6:.0f} MB more, {free / 1e6:.0f} MB are free"
            )

    def _publish(self, pointers: Pointers, pulled: Pulled) -> None:
        layout, here = self._layout, {manifest.version for manifest in pulled.versions}
        previous = pointers.previous if self._fingerprint is None else None
        if previous is None:
            layout.previous_pointer.unlink(missing_ok=True)
        elif previous in here:
            # Before CURRENT: who serves the embedder before must find its index at every moment.
            layout.keep_as_previous(previous)
        in_use = pulled.wanted[0]
        if in_use not in here:
            return
        if layout.current_version() != in_use:
            layout.point_to(in_use)
        if in_use == pointers.current:
            keep_origin(layout.index_dir, self._source.url, in_use)

    def _remove_old(self, wanted: list[str], writer: IndexWriter) -> None:
        writer.remove_old()
        if self._arriving.is_dir():
            for folder in self._arriving.iterdir():
                if folder.name not in wanted:
                    shutil.rmtree(folder, ignore_errors=True)  # the store has gone on since it began to arrive
