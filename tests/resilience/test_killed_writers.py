"""kill -9 in ingest, add, remove and publish: what was acknowledged is there once, and no half index is served."""

import multiprocessing
import random
import threading
import time
from pathlib import Path

from PIL import Image

from lookalike.delivery.index_store import IndexStore
from lookalike.delivery.pull import IndexPuller
from lookalike.delivery.store import open_store
from lookalike.errors import IndexUnavailable
from lookalike.index.layout import IndexLayout
from lookalike.index.live import LiveIndex
from lookalike.index.verify import verify_snapshot
from tests.colour_embedder import ColourEmbedder, catalogue_of
from tests.resilience.killed_editor import edit
from tests.resilience.promises import Promise

Items = frozenset[str]
MOST = 60
ACTIONS = ("ingest", "add", "remove", "publish")
KILL_WITHIN = 1.0  # times what the edit takes when it is left alone


def ids_of(numbers: set[int]) -> Items:
    return frozenset(f"item-{n}" for n in numbers)


def read_wholly(index_dir: Path) -> list[str] | None:
    """Return the ids of the published version after checking every byte of it; None when there is none."""
    try:
        return verify_snapshot(IndexLayout(index_dir).published_dir()).items.item_ids()
    except IndexUnavailable:
        return None


class Reader:
    """Searches the live index without a pause, as a router does, and keeps every answer that no whole state gives."""

    def __init__(self, index_dir: Path) -> None:
        self.allowed: set[Items] = {frozenset()}
        self.answers, self.wrong = 0, list[str]()
        self._live = LiveIndex(index_dir, poll_s=0.01)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        embedder = ColourEmbedder()
        embeddings = embedder.embed(embedder.prepare(Image.new("RGB", (8, 8), "red"))[None])
        while not self._stopped.wait(0.005):
            allowed = self.allowed  # before the look: what is allowed only grows while a writer runs
            try:
                index = self._live.current()
            except IndexUnavailable:
                continue
            (hits,) = index.search(embeddings, MOST + 10)
            found = [hit.item_id for hit in hits]
            self.answers += 1
            if len(set(found)) != len(found) or frozenset(found) not in allowed | self.allowed:
                self.wrong.append(f"{index.info.version}: {sorted(found)}")

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._live.close()


class Cycles:
    """One index, edited by processes that are killed; what it may hold is known at every moment."""

    def __init__(self, processes: multiprocessing.context.ForkServerContext, tmp_path: Path, seed: str) -> None:
        self._processes, self._random, self._told = processes, random.Random(seed), tmp_path / "told"
        self.index_dir, self._pictures, self._store = tmp_path / "index", tmp_path / "pictures", tmp_path / "store"
        self._local = tmp_path / "pulled"
        catalogue_of(self._pictures, MOST)
        self.held: set[int] = set()
        self.reader: Reader | None = None
        self.seconds: dict[str, float] = {}
        self.killed = self.acknowledged = 0
        self.lost, self.doubled = list[str](), list[str]()

    def run(self, action: str, kill: bool = True) -> None:
        """Do one edit, kill it at some moment, and compare what is there with what may be."""
        numbers = self._numbers(action)
        after = self._after(action, numbers)
        if self.reader is not None:
            self.reader.allowed = {ids_of(self.held), ids_of(after)}
        done = self._edited(action, numbers, kill)
        self.acknowledged += done
        if action == "publish":
            self._check_store(done)
        self._settle(after, done)

    def _numbers(self, action: str) -> list[int]:
        if action == "publish":
            return []
        pool = sorted(self.held) if action == "remove" else range(MOST)
        return self._random.sample(list(pool), min(len(pool), self._random.randint(6, 24)))

    def _after(self, action: str, numbers: list[int]) -> set[int]:
        changed = {"ingest": set(numbers), "add": self.held | set(numbers), "remove": self.held - set(numbers)}
        return changed.get(action, self.held)

    def _edited(self, action: str, numbers: list[int], kill: bool) -> bool:
        """Edit, killed at some moment; return whether it was acknowledged before."""
        self._told.unlink(missing_ok=True)
        arguments = (self.index_dir, self._pictures, self._store, action, numbers, self._told)
        process = self._processes.Process(target=edit, args=arguments)
        process.start()
        end_s = time.monotonic() + 60
        while not self._told.exists() and process.is_alive() and time.monotonic() < end_s:
            time.sleep(0.001)
        start_s = time.monotonic()
        if kill:
            process.join(self._random.uniform(0, KILL_WITHIN * self.seconds[action]))
            process.kill()
        process.join(60)
        if not kill:
            self.seconds[action] = time.monotonic() - start_s
        self.killed += process.exitcode == -9
        assert process.exitcode in (0, -9)
        return self._told.exists() and "done" in self._told.read_text()

    def _settle(self, after: set[int], done: bool) -> None:
        """Find out which state the edit left: that before or that after it, and after it when it was acknowledged."""
        found = read_wholly(self.index_dir) or []
        if len(found) != len(set(found)):
            self.doubled.append(str(found))
        allowed = [after] if done else [self.held, after]
        states = [state for state in allowed if frozenset(found) == ids_of(state)]
        if not states:
            self.lost.append(f"{sorted(found)} is none of {[sorted(state) for state in allowed]}")
            return
        self.held = states[0]

    def _check_store(self, done: bool) -> None:
        """Whoever pulls from the store gets a whole version: the new one when its publication was acknowledged."""
        source = IndexStore(open_store(str(self._store)))
        current = source.pointers().current
        if done and current != IndexLayout(self.index_dir).current_version():
            self.lost.append(f"the store has {current}")
        if current is not None:
            IndexPuller(source, self._local, 3).pull().check()
            assert read_wholly(self._local) is not None


def test_no_kill_loses_doubles_or_halves_anything(
    processes: multiprocessing.context.ForkServerContext, tmp_path: Path, cycles: int, promise: Promise
) -> None:
    run = Cycles(processes, tmp_path, "a hundred kills")
    for action in ACTIONS:
        run.run(action, kill=False)
    run.acknowledged = 0
    run.reader = Reader(run.index_dir)
    try:
        for number in range(4 * cycles):
            # Some come to their end undisturbed: what they acknowledge must outlive the next kill. They also tell how
            # long an edit takes on a machine that is as busy as now.
            run.run(ACTIONS[number % len(ACTIONS)] if run.held else "add", kill=number % 5 != 2)
            if run.killed == cycles:
                break
    finally:
        run.reader.close()
    assert run.reader.wrong == []
    assert run.lost == [] and run.doubled == []
    # Enough came to their end for this to mean anything.
    promise("kills.writers_killed", run.killed, "kills", at_least=cycles)
    promise("kills.edits_acknowledged", run.acknowledged, "edits", at_least=cycles / 20)
    promise("kills.items_lost_or_doubled", len(run.lost) + len(run.doubled), "items", at_most=0)
    promise("kills.answers_of_a_half_index", len(run.reader.wrong), "answers", at_most=0)
    promise("kills.searches_meanwhile", run.reader.answers, "searches", at_least=cycles)
