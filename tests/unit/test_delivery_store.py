"""A store's own promises: one of two writers wins, objects appear whole, and what a failure is called."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lookalike.config import StoreSettings
from lookalike.delivery.store import LocalStore, Store, open_store
from lookalike.errors import StoreError, StoreMissing, StoreMoved, StoreUnreachable
from tests.s3_server import S3Server

IMPATIENT = StoreSettings(retry_s=0, timeout_s=5)


@pytest.fixture(params=["s3", "folder"])
def store(s3: S3Server, request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    url = s3.url(f"store/{request.node.name}") if request.param == "s3" else str(tmp_path / "store")
    return open_store(url, IMPATIENT)


class Interrupted(Store):
    """The same store, in which another publisher writes between this one's look and its write."""

    def __init__(self, store: Store, other_writes: Callable[[], None]) -> None:
        super().__init__(store.url, store._settings, store._fs, store._root)
        self._other_writes = other_writes

    def read_if_there(self, name: str) -> bytes | None:
        found = super().read_if_there(name)
        self._other_writes()
        self._other_writes = lambda: None
        return found


def test_objects_come_back_and_are_listed(store: Store) -> None:
    assert (store.names("a"), store.size("a/b"), store.read_if_there("a/b")) == ([], None, None)
    store.put("a/b", b"one")
    store.put("a/b", b"two!")
    store.put("a/c/d", b"")
    assert (store.names("a"), store.size("a/b"), store.read("a/b")) == (["b", "c"], 4, b"two!")
    assert (store.read_block("a/b", 1, 3), store.read("a/c/d")) == (b"wo", b"")
    store.remove("a/c")
    store.remove("a/c")
    assert store.names("a") == ["b"]


def test_a_missing_object_is_named(store: Store) -> None:
    with pytest.raises(StoreMissing, match=r"a/b is not in the store"):
        store.read("a/b")


def test_a_swap_holds_only_over_what_was_expected(store: Store) -> None:
    store.swap("CURRENT", b"1", None)
    store.swap("CURRENT", b"2", b"1")
    store.swap("CURRENT", b"2", b"1")  # the same again: as when the first answer was lost
    with pytest.raises(StoreMoved, match="changed meanwhile by another publisher"):
        store.swap("CURRENT", b"3", b"1")
    with pytest.raises(StoreMoved):
        store.put_new("CURRENT", b"4")
    assert store.read("CURRENT") == b"2"


@pytest.mark.parametrize("before", [None, b"1"])
def test_on_s3_the_server_itself_decides_between_two_writers(s3: S3Server, before: bytes | None) -> None:
    store = open_store(s3.url(f"race/{before!r}"), IMPATIENT)
    if before is not None:
        store.put("CURRENT", before)
    slow = Interrupted(store, lambda: store.put("CURRENT", b"theirs"))
    with pytest.raises(StoreMoved):
        slow.swap("CURRENT", b"ours", before)
    assert store.read("CURRENT") == b"theirs"


def test_a_server_without_conditional_puts_can_be_used_by_one_publisher(s3: S3Server) -> None:
    store = open_store(s3.url("old-server"), IMPATIENT.model_copy(update={"conditional_puts": False}))
    store.swap("CURRENT", b"1", None)
    store.swap("CURRENT", b"2", b"1")
    with pytest.raises(StoreMoved):
        store.swap("CURRENT", b"3", b"1")


def test_a_large_file_goes_up_in_parts_and_comes_back(s3: S3Server, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        for number in range(130):
            file.write(bytes([number]) * 1_000_000)
    store = open_store(s3.url("large"), IMPATIENT)
    store.upload(large, "object")
    assert store.size("object") == 130_000_000
    assert store.read_block("object", 99_999_998, 100_000_002) == b"\x63\x63\x64\x64"


def test_missing_credentials_are_told_and_not_asked_for_again(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    store = open_store(s3.url("secret"), StoreSettings(retry_s=600))
    with pytest.raises(StoreError, match="Unable to locate credentials") as refused:
        store.read("CURRENT")
    assert not isinstance(refused.value, StoreUnreachable)


def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    store = open_store(str(tmp_path / "file/store"), StoreSettings(retry_s=600))
    assert isinstance(store, LocalStore)
    with pytest.raises(StoreError) as refused:
        store.put("CURRENT", b"1")
    assert not isinstance(refused.value, StoreUnreachable)
