"""A running server on a catalogue in Milvus: which collection answers for which embedder, and what is refused."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lookalike.config import MilvusSettings
from lookalike.errors import IndexMismatch, IndexUnavailable, SetupError
from lookalike.index.items import ItemRecord
from lookalike.index.milvus.catalogue import MilvusCatalogue
from lookalike.index.milvus.live import LiveMilvus
from tests.milvus_running import catalogue_in, filled, manifest_of

OLD, NEW = "a" * 16, "b" * 16


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[MilvusCatalogue]:
    with catalogue_in(tmp_path) as catalogue:
        yield catalogue


def publish(catalogue: MilvusCatalogue, fingerprint: str) -> str:
    """Let a new collection of one item serve."""
    item = ItemRecord("item", b"\0" * 32, "")
    index = filled(catalogue, manifest_of("flat", 4, fingerprint), np.eye(1, 4, dtype=np.float32), [item])
    catalogue.mark_ready(index.info.version)
    catalogue.switch_to(index.info.version)
    return index.info.version


def followed(catalogue: MilvusCatalogue, served: list[str | None]) -> LiveMilvus:
    settings = catalogue.connection.settings.model_copy(update={"catalogue": catalogue.name})
    return LiveMilvus(settings, lambda: served[0], poll_s=3600)


def test_each_embedder_is_answered_from_its_own_collection(catalogue: MilvusCatalogue) -> None:
    old, served = publish(catalogue, OLD), [OLD]
    with followed(catalogue, served) as live:
        assert (live.current().info.version, live.problem) == (old, None)
        new = publish(catalogue, NEW)
        live.refresh()
        assert live.open_versions() == {OLD: old, NEW: new}
        assert (live.current().info.version, live.of(NEW).info.version, live.problem) == (old, new, None)
        served[0] = NEW
        live.refresh()
        assert (live.current().info.version, live.of(OLD).info.version) == (new, old)
        assert catalogue.retire_previous() == old
        live.refresh()
        assert live.open_versions() == {NEW: new}


def test_a_collection_of_another_embedder_never_answers(catalogue: MilvusCatalogue) -> None:
    publish(catalogue, OLD)
    with followed(catalogue, [NEW]) as live:
        with pytest.raises(IndexMismatch, match=f"{OLD}; the embedder in use is {NEW}"):
            live.current()
        assert isinstance(live.problem, IndexMismatch)


def test_items_that_another_process_puts_in_are_counted(catalogue: MilvusCatalogue) -> None:
    publish(catalogue, OLD)
    with followed(catalogue, [None]) as live:
        index = live.current()
        live.of(OLD).upsert([ItemRecord("another", b"\1" * 32, "")], np.eye(1, 4, 1, dtype=np.float32))
        live.refresh()
        assert live.current() is index
        assert index.info.count == 2


def test_what_is_published_later_is_found(catalogue: MilvusCatalogue) -> None:
    with followed(catalogue, [OLD]) as live:
        with pytest.raises(IndexUnavailable, match=r"no catalogue .* is published"):
            live.current()
        version = publish(catalogue, OLD)
        live.refresh()
        assert (live.current().info.version, live.problem) == (version, None)


def test_a_wrong_address_is_told_and_stops_nothing() -> None:
    live = LiveMilvus(MilvusSettings(uri="nowhere"), poll_s=3600)
    with live, pytest.raises(SetupError, match="no address of Milvus"):
        live.current()
