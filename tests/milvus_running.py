"""A real Milvus engine for tests: embedded in a file, or a server on a free port that can be stopped and started again.

Where LOOKALIKE_TEST_MILVUS_URI names a server, the tests of an index run there instead of in a file.
"""

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.config import IndexSettings, MilvusSettings
from lookalike.index.items import ItemRecord
from lookalike.index.manifest import BuildSettings, Kind, Manifest
from lookalike.index.milvus.catalogue import MilvusCatalogue
from lookalike.index.milvus.connection import MilvusConnection
from lookalike.index.milvus.index import MilvusIndex


def manifest_of(kind: Kind, dim: int, fingerprint: str = "f" * 16, build: BuildSettings | None = None) -> Manifest:
    return Manifest(
        version="000001-12345678",
        created="",
        kind=kind,
        embedder="random",
        fingerprint=fingerprint,
        dim=dim,
        count=0,
        build=build or BuildSettings(),
        files={},
    )


@contextmanager
def catalogue_in(folder: Path) -> Iterator[MilvusCatalogue]:
    """Yield an empty catalogue; its collections go away afterwards."""
    uri = os.environ.get("LOOKALIKE_TEST_MILVUS_URI")
    connection = MilvusConnection(MilvusSettings(uri=uri or str(folder / "milvus.db")))
    catalogue = MilvusCatalogue(connection, f"test_{uuid.uuid4().hex[:12]}")
    try:
        yield catalogue
    finally:
        if uri is None:
            release(folder / "milvus.db")
        else:
            remove_all(catalogue)
        connection.close()


def release(file: Path) -> None:
    """Stop the engine of a file in this process."""
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_server(str(file))


def remove_all(catalogue: MilvusCatalogue) -> None:
    client = catalogue.connection.client
    for alias in (catalogue.name, catalogue.previous_alias):
        with suppress(Exception):
            client.drop_alias(alias)
    for name in catalogue.names():
        client.drop_collection(name)


def filled(
    catalogue: MilvusCatalogue,
    manifest: Manifest,
    embeddings: NDArray[np.float32],
    records: Sequence[ItemRecord],
    settings: IndexSettings | None = None,
) -> MilvusIndex:
    """Return a new collection with these items, sealed and indexed."""
    settings = settings or IndexSettings()
    index = MilvusIndex(catalogue, catalogue.create(manifest, "the test", len(records), settings), settings)
    index.upsert(records, embeddings)
    catalogue.settle(index.info.version)
    return index


class MilvusServer:
    """A server process over a folder; what it has acknowledged is there when it is started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        command = Path(sys.executable).with_name("milvus-lite")
        arguments = ["server", "--data-dir", str(self._folder), "--host", "127.0.0.1", "--port", str(self._port)]
        with (self._folder.parent / "milvus.log").open("ab") as log:
            self._process = subprocess.Popen([command, *arguments], stdout=log, stderr=log)
        end_s = time.monotonic() + 30
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > end_s:
                self.stop()
                raise AssertionError((self._folder.parent / "milvus.log").read_text())
            time.sleep(0.05)

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
            return True
        return False

    def connect(self, **settings: object) -> MilvusConnection:
        return MilvusConnection(MilvusSettings(uri=self.uri, timeout_s=2, **settings))

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)


@contextmanager
def milvus_server(folder: Path) -> Iterator[MilvusServer]:
    server = MilvusServer(folder / "milvus")
    try:
        yield server
    finally:
        server.stop()
