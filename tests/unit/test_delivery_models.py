"""Sets of model archives through a real S3 server, and through a folder."""

import io
import json
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lookalike.config import StoreSettings
from lookalike.delivery import transfer
from lookalike.delivery.model_sets import pull_models, push_models, read_set, verified_archives
from lookalike.delivery.store import Store, open_store
from lookalike.errors import SetupError, StoreDamaged, StoreMissing, StoreMoved, StoreUnreachable
from tests.s3_server import S3Server

IMPATIENT = StoreSettings(retry_s=0, timeout_s=5)


def write_archive(folder: Path, name: str, seed: int = 0, fingerprint: str | None = None, weights: int = 5000) -> Path:
    """Write an archive as the archiver does: a manifest, and for a model its description and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {"modelName": name, "modelVersion": "1.0"}}))
        if fingerprint is not None:
            described = {"name": name, "version": "1.0", "architecture": "a", "fingerprint": fingerprint}
            archive.writestr("model.json", json.dumps({**described, "licence": "MIT", "recipe": "r", "files": {}}))
            archive.writestr("weights", np.random.default_rng(seed).bytes(weights))
    path = folder / f"{name}.mar"
    path.write_bytes(packed.getvalue())
    return path


def write_set(folder: Path, seed: int = 0, weights: int = 5000) -> Path:
    write_archive(folder, "embedder", seed, f"{seed:016x}", weights)
    write_archive(folder, "search")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def object_of(s3: S3Server, url: str, name: str) -> str:
    (found,) = s3.names(url.removeprefix(f"s3://{s3.bucket}/") + f"/{name}-")
    return found


@pytest.mark.parametrize("place", ["s3", "folder"])
def test_a_set_comes_back_as_it_was_pushed(url: str, tmp_path: Path, place: str) -> None:
    archives = write_set(tmp_path / "archives")
    store = open_store(url if place == "s3" else str(tmp_path / "store"), IMPATIENT)
    pushed = push_models(archives, store)
    pulled, fetched = pull_models(store, tmp_path / "here")
    assert (pulled, fetched) == (pushed, 2)
    assert pulled.embedder_fingerprint == "0" * 16
    assert {name: data for name, data in contents(tmp_path / "here").items() if name != "models.json"} == contents(
        archives
    )
    assert read_set(tmp_path / "here") == pushed


def test_pulling_again_fetches_nothing_and_a_damaged_archive_is_fetched_again(url: str, tmp_path: Path) -> None:
    store = open_store(url, IMPATIENT)
    push_models(write_set(tmp_path / "archives"), store)
    pull_models(store, tmp_path / "here")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "here").glob("*.mar")}
    assert pull_models(store, tmp_path / "here")[1] == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "here").glob("*.mar")} == before
    (tmp_path / "here/embedder.mar").write_bytes(b"damaged")
    assert pull_models(store, tmp_path / "here")[1] == 1
    assert (tmp_path / "here/embedder.mar").read_bytes() == (tmp_path / "archives/embedder.mar").read_bytes()


def test_pushing_again_changes_nothing_and_another_set_under_the_same_url_is_refused(
    s3: S3Server, url: str, tmp_path: Path
) -> None:
    store = open_store(url, IMPATIENT)
    push_models(write_set(tmp_path / "archives"), store)
    before = s3.digest()
    push_models(tmp_path / "archives", store)
    with pytest.raises(StoreMoved, match="push to a URL of its own"):
        push_models(write_set(tmp_path / "others", seed=1), store)
    assert s3.digest() == before


def test_an_altered_archive_is_named_and_nothing_takes_its_name(s3: S3Server, url: str, tmp_path: Path) -> None:
    store = open_store(url, IMPATIENT)
    push_models(write_set(tmp_path / "archives"), store)
    s3.alter(object_of(s3, url, "embedder"))
    with pytest.raises(StoreDamaged, match=r"embedder-1\.0-.* was altered: its sha256 is"):
        pull_models(store, tmp_path / "here")
    assert not list((tmp_path / "here").glob("*.mar"))
    assert not (tmp_path / "here/models.json").exists()


def test_a_damaged_set_does_not_touch_the_one_that_is_there(s3: S3Server, url: str, tmp_path: Path) -> None:
    first, second = (open_store(f"{url}/{name}", IMPATIENT) for name in ("1", "2"))
    push_models(write_set(tmp_path / "archives"), first)
    push_models(write_set(tmp_path / "new", seed=1), second)
    pull_models(first, tmp_path / "here")
    before = contents(tmp_path / "here")
    s3.alter(object_of(s3, second.url, "embedder"))
    with pytest.raises(StoreDamaged):
        pull_models(second, tmp_path / "here")
    assert contents(tmp_path / "here").items() >= before.items()


def test_a_cut_archive_is_named_by_its_size(s3: S3Server, url: str, tmp_path: Path) -> None:
    store = open_store(url, IMPATIENT)
    push_models(write_set(tmp_path / "archives"), store)
    name = object_of(s3, url, "embedder")
    s3.put(name, s3.get(name)[:-100])
    with pytest.raises(StoreDamaged, match=r"has \d+ bytes, the manifest says"):
        pull_models(store, tmp_path / "here")


def test_a_missing_archive_is_named(s3: S3Server, url: str, tmp_path: Path) -> None:
    store = open_store(url, IMPATIENT)
    push_models(write_set(tmp_path / "archives"), store)
    s3.delete(object_of(s3, url, "search"))
    with pytest.raises(StoreMissing, match=r"search-1\.0-.* is not in the store, though the manifest lists it"):
        pull_models(store, tmp_path / "here")


def test_a_url_without_models_says_so(url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match="holds no models"):
        pull_models(open_store(url, IMPATIENT), tmp_path)


def test_a_bucket_that_does_not_exist_is_named(tmp_path: Path, s3: S3Server) -> None:
    with pytest.raises(StoreMissing, match="the bucket does not exist"):
        pull_models(open_store("s3://no-such-bucket/models", IMPATIENT), tmp_path)


def test_a_set_file_that_is_none_is_named(s3: S3Server, url: str, tmp_path: Path) -> None:
    s3.put(url.removeprefix(f"s3://{s3.bucket}/") + "/models.json", b'{"archives": {"../evil": {}}}')
    with pytest.raises(StoreDamaged, match=r"models\.json names no set of models: .*evil"):
        pull_models(open_store(url, IMPATIENT), tmp_path)


def test_a_folder_without_archives_is_not_pushed(url: str, tmp_path: Path) -> None:
    (tmp_path / "embedder.mar").write_text("no archive")
    with pytest.raises(SetupError, match="is no model archive"):
        push_models(tmp_path, open_store(url, IMPATIENT))
    with pytest.raises(SetupError, match="holds no model archive"):
        push_models(tmp_path / "none", open_store(url, IMPATIENT))


def test_a_store_that_is_down_is_asked_again_until_the_limit_and_then_named(s3: S3Server, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        store = open_store("s3://bucket/down", StoreSettings(retry_s=2, timeout_s=1))
        start_s = time.monotonic()
        with pytest.raises(StoreUnreachable, match=r"the store cannot be reached: .*127\.0\.0\.1:9"):
            pull_models(store, tmp_path)
    assert 1 < time.monotonic() - start_s < 15


def test_a_pull_that_loses_the_server_goes_on_where_it_was_when_the_server_is_back(
    s3: S3Server, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BLOCK_BYTES", 1 << 14)
    push_models(write_set(tmp_path / "archives", weights=8_000_000), open_store(url, IMPATIENT))
    store = open_store(url, StoreSettings(retry_s=60, timeout_s=5))
    outcome: list[object] = []

    def pull() -> None:
        try:
            outcome.append(pull_models(store, tmp_path / "here"))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=pull)
    thread.start()
    got = wait_for_part(tmp_path / "here/.arriving")
    s3.stop()
    time.sleep(1)
    assert not outcome
    assert not list((tmp_path / "here").glob("*.mar"))
    s3.start_again()
    thread.join(60)
    assert isinstance(outcome[0], tuple), outcome
    assert got > 0
    assert (tmp_path / "here/embedder.mar").read_bytes() == (tmp_path / "archives/embedder.mar").read_bytes()


def test_a_pull_that_was_ended_does_not_fetch_again_what_it_had(url: str, tmp_path: Path) -> None:
    store = open_store(url, IMPATIENT)
    push_models(write_set(tmp_path / "archives", weights=2_000_000), store)
    whole = (tmp_path / "archives/embedder.mar").read_bytes()
    entry = read_set_entry(store)
    name = f"embedder-1.0-{entry[:16]}.mar"
    part = tmp_path / f"here/.arriving/{name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(whole[:1_500_000])
    fetched = Counting(store)
    pull_models(fetched, tmp_path / "here")
    assert (tmp_path / "here/embedder.mar").read_bytes() == whole
    assert fetched.bytes < 600_000


def test_a_part_of_something_else_is_thrown_away(url: str, tmp_path: Path) -> None:
    store = open_store(url, IMPATIENT)
    push_models(write_set(tmp_path / "archives"), store)
    part = tmp_path / f"here/.arriving/embedder-1.0-{read_set_entry(store)[:16]}.mar.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 3000)
    pull_models(store, tmp_path / "here")
    assert (tmp_path / "here/embedder.mar").read_bytes() == (tmp_path / "archives/embedder.mar").read_bytes()


class Counting(Store):
    """The same store, which counts what is read of it."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.url, store._settings, store._fs, store._root)
        self.bytes = 0

    def read_block(self, name: str, start: int, end: int) -> bytes:
        block = super().read_block(name, start, end)
        self.bytes += len(block)
        return block


def read_set_entry(store: Store) -> str:
    return str(json.loads(store.read("models.json"))["archives"]["embedder"]["sha256"])


def wait_for_part(folder: Path, limit_s: float = 30) -> int:
    """Return the size of what has arrived of a file once something has."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        for part in folder.glob("*.part"):
            if (size := part.stat().st_size) > 100_000:
                return size
        time.sleep(0.002)
    raise AssertionError("nothing arrived")


def test_a_pulled_set_is_checked_again_before_it_is_served(url: str, tmp_path: Path) -> None:
    push_models(write_set(tmp_path / "built"), open_store(url))
    pull_models(open_store(url), tmp_path / "models")
    write_archive(tmp_path / "models", "left-over")
    assert verified_archives(tmp_path / "models") == {
        name: tmp_path / f"models/{name}.mar" for name in ("embedder", "search")
    }
    with (tmp_path / "models/embedder.mar").open("r+b") as archive:
        archive.write(b"?")
    with pytest.raises(StoreDamaged, match=r"models/embedder\.mar is missing or damaged"):
        verified_archives(tmp_path / "models")
    (tmp_path / "models/embedder.mar").unlink()
    with pytest.raises(StoreDamaged, match=r"models/embedder\.mar is missing or damaged"):
        verified_archives(tmp_path / "models")


def test_archives_that_were_not_pulled_are_served_as_they_lie_there(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="holds no model archive"):
        verified_archives(tmp_path)
    path = write_archive(tmp_path, "search")
    assert verified_archives(tmp_path) == {"search": path}


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(SetupError, match="is no address of a store"):
        open_store("foo://bucket/models")
