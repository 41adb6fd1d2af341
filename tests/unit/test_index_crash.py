"""kill -9 at moments that a seed chooses: what was acknowledged is there, and the version in use is whole."""

import multiprocessing
import random
import time
from pathlib import Path

import pytest

from lookalike.catalogue import read_catalogue
from lookalike.errors import IndexUnavailable
from lookalike.index.edits import IndexEditor
from lookalike.index.layout import IndexLayout
from lookalike.index.snapshot import Snapshot
from lookalike.index.store import EmbeddingStore
from lookalike.index.verify import verify_snapshot
from tests.colour_embedder import ColourEmbedder, save_picture
from tests.slow_edits import OPTIONS, SETTINGS, processes_with
from tests.unit.crash_writer import write

IMAGES, STEP = 120, 12


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    return processes_with("tests.unit.crash_writer")


class Writer:
    """Runs edits of one index, each in its own process."""

    def __init__(self, processes: multiprocessing.context.ForkServerContext, tmp_path: Path) -> None:
        self.index_dir, self.folder = tmp_path / "index", tmp_path / "pictures"
        self._processes, self._told = processes, tmp_path / "told"

    def run(self, action: str, count: int, kill_after_s: float | None = None) -> list[str]:
        """Edit, killed so many seconds after the start when given; return what was acknowledged.

        `build` and `add` take `count` images, `remove` takes away the first `count`.
        """
        if action != "remove":
            for number in range(count):
                save_picture(self.folder / f"{number}.png", number)
        self._told.unlink(missing_ok=True)
        arguments = (self.index_dir, self.folder, action, count, self._told)
        process = self._processes.Process(target=write, args=arguments)
        process.start()
        if kill_after_s is not None:
            end_s = time.monotonic() + 60
            while not self._told.exists() and process.is_alive() and time.monotonic() < end_s:
                time.sleep(0.001)
            time.sleep(kill_after_s)
            process.kill()
        process.join()
        assert kill_after_s is not None or process.exitcode == 0
        return self._told.read_text().splitlines()


@pytest.fixture
def writer(processes: multiprocessing.context.ForkServerContext, tmp_path: Path) -> Writer:
    return Writer(processes, tmp_path)


def in_use(index_dir: Path) -> Snapshot | None:
    """Return the published version after reading all of it; None when nothing was ever published."""
    try:
        return verify_snapshot(IndexLayout(index_dir).published_dir())
    except IndexUnavailable:
        return None


def acknowledged_keys(lines: list[str]) -> set[bytes]:
    return {bytes.fromhex(key) for line in lines if line.startswith("saved ") for key in line.split()[1:]}


def store_in(index_dir: Path) -> EmbeddingStore:
    embedder = ColourEmbedder()
    layout = IndexLayout(index_dir)
    return EmbeddingStore(layout.embeddings_dir, embedder.fingerprint, embedder.preparation, embedder.dim)


@pytest.mark.parametrize(("action", "within_s"), [("build", 0.15), ("add", 0.15), ("remove", 0.08)])
def test_a_killed_writer_loses_nothing_that_it_acknowledged(writer: Writer, action: str, within_s: float) -> None:
    moments = random.Random(f"kill during {action}")
    if action != "build":
        writer.run("build", IMAGES if action == "remove" else STEP)
    for count in range(STEP, IMAGES + 1, STEP):  # more work in each round, whether or not the last one ended
        before = in_use(writer.index_dir)
        lines = writer.run(action, count, moments.uniform(0, within_s))
        after = in_use(writer.index_dir)
        published = [line.split()[1] for line in lines if line.startswith("published ")]
        assert not published or (after is not None and after.manifest.version == published[0])
        assert before is None or after is not None
        kept = store_in(writer.index_dir).known
        indexed = set() if after is None else {record.content_sha256 for record in after.items.records()}
        assert all(key in kept or key in indexed for key in acknowledged_keys(lines))
    lines = writer.run(action, IMAGES)
    final = in_use(writer.index_dir)
    assert final is not None and lines[-1] == f"published {final.manifest.version}"
    assert final.manifest.count == (0 if action == "remove" else IMAGES)
    assert not list(IndexLayout(writer.index_dir).versions_dir.glob(".tmp-*"))


def test_the_second_run_embeds_only_what_the_killed_one_had_not_saved(writer: Writer) -> None:
    saved = acknowledged_keys(writer.run("build", IMAGES, kill_after_s=0.06))
    embedder = ColourEmbedder()
    IndexEditor(writer.index_dir, SETTINGS, OPTIONS).build(read_catalogue(writer.folder), embedder)
    # One chunk may be on the disk whose acknowledgement the kill cut off.
    assert IMAGES - len(saved) - SETTINGS.chunk_items <= embedder.embedded <= IMAGES - len(saved)


def test_a_version_written_but_not_yet_pointed_to_does_no_harm(writer: Writer) -> None:
    first = writer.run("build", 8)[-1].split()[1]
    writer.run("build", 12)
    # As if the kill had come between the rename of the new version and the new CURRENT.
    IndexLayout(writer.index_dir).point_to(first)
    assert writer.run("build", 12)[-1].startswith("published 000003-")
    snapshot = in_use(writer.index_dir)
    assert snapshot is not None and snapshot.manifest.count == 12
