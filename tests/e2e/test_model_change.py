"""A new embedder and its re-embedded index go live together: under load, no request fails and no wrong pair answers."""

import concurrent.futures
import dataclasses
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from lookalike.archives import ArchiveSources, build_archives
from lookalike.catalogue import read_catalogue
from lookalike.config import IndexSettings
from lookalike.delivery.model_sets import read_set
from lookalike.image_embedder import WholeImageEmbedder
from lookalike.index.edits import IndexEditor
from lookalike.index.faiss_index import open_index
from lookalike.index.layout import IndexLayout
from lookalike.server import ServerProcess, start_server
from lookalike.server_config import ServerFiles, ServerSettings, free_ports
from tests.e2e.balancer import Balancer, running_balancer
from tests.e2e.catalogue_drawn import write_catalogue
from tests.e2e.other_embedder import build_other_archives
from tests.e2e.surroundings import ROOT
from tests.s3_server import S3Server, running_s3
from tests.served import own_environment

SHARDS = 2


@dataclass
class World:
    """A store, the archives of both embedders, a catalogue; the old pair is in the store, the new models beside it."""

    s3: S3Server
    folder: Path
    archives: dict[str, Path]
    catalogue: Path

    @property
    def index_url(self) -> str:
        return self.s3.url("index")

    def models_url(self, name: str) -> str:
        return self.s3.url(f"models/{name}")

    def fingerprint(self, name: str) -> str:
        return read_set(self.archives[name]).embedder_fingerprint


def lookalike(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line as a pod does."""
    command = [str(Path(sys.executable).with_name("lookalike")), *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300)


def done(*arguments: object, **environment: str) -> str:
    result = lookalike(*arguments, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    variables = {"LOOKALIKE_MODEL_RUNTIME": "onnx", "LOOKALIKE_ROUTER_INDEX_POLL_S": "0.2"}
    with running_s3() as s3, own_environment(**variables):
        build_archives(ArchiveSources.of(ROOT), folder / "old/archives")
        build_other_archives(ROOT, folder / "new")
        (folder / "catalogue").mkdir()
        archives = {name: folder / name / "archives" for name in ("old", "new")}
        world = World(s3, folder, archives, write_catalogue(folder / "catalogue"))
        for name, path in world.archives.items():
            done("models", "push", world.models_url(name), "--archives", path)
        build_in_shards(world, "old")
        yield world


def build_in_shards(world: World, name: str) -> None:
    """Build and publish the index of an embedder as an indexed Job does: each pod by itself, all at once."""

    def pod(index: int) -> str:
        options = ["--to", world.index_url, "--build", name, "--count", SHARDS, "--publish"]
        model = world.archives[name] / "embedder.mar"
        return done("index", "shard", world.catalogue, *options, "--model", model, JOB_COMPLETION_INDEX=str(index))

    with concurrent.futures.ThreadPoolExecutor(SHARDS) as pods:
        told = list(pods.map(pod, range(SHARDS)))
    assert "is published: 36 items" in told[-1]


@contextmanager
def pod(world: World, name: str, models: tuple[str, ...] = ("search",)) -> Iterator[ServerProcess]:
    """A pod of models and router in one process, with what its init containers brought."""
    here = world.folder / f"pod-{name}"
    done("models", "pull", world.models_url(name), "--to", here / "archives")
    done("index", "pull", world.index_url, "--index-dir", here / "index", "--models", here / "archives")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOOKALIKE_ROUTER_MODELS", "in_process")
        with started(here / "archives", here / "index", here / "state", models, 0) as server:
            yield server


@contextmanager
def started(
    archives: Path, index_dir: Path, state: Path, models: tuple[str, ...], port: int
) -> Iterator[ServerProcess]:
    state.mkdir(parents=True)
    files = dataclasses.replace(ServerFiles.of(ROOT), archives=archives, index_dir=index_dir, state=state)
    served = {model: archives / f"{model}.mar" for model in models}
    with start_server(served, files, ServerSettings(port=port, metrics_port=0)) as server:
        yield server


@contextmanager
def followed(world: World, index_dir: Path) -> Iterator[None]:
    """The sidecar of a router: `lookalike index follow`."""
    command = [str(Path(sys.executable).with_name("lookalike")), "index", "follow", world.index_url]
    process = subprocess.Popen([*command, "--index-dir", str(index_dir), "--poll-s", "0.3"])
    try:
        wait_until(lambda: (index_dir / "CURRENT").exists())
        yield
    finally:
        process.terminate()
        assert process.wait(10) == 0


@dataclass
class Load:
    """Clients that search without a pause; every answer is kept: its status, index version and whether it is right."""

    url: str
    pictures: dict[str, bytes]
    answers: list[tuple[int, str, bool, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._search, args=(number,)) for number in range(3)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def versions_since(self, start: int) -> set[str]:
        return {version for _, version, _, _ in self.answers[start:]}

    def wait_for(self, count: int) -> None:
        """Wait until so many more answers have come."""
        wanted = len(self.answers) + count
        wait_until(lambda: len(self.answers) >= wanted, 120)

    def _search(self, number: int) -> None:
        names = itertools.islice(itertools.cycle(self.pictures), number * 7, None)
        headers = {"content-type": "image/png", "x-lookalike-crop": "none", "x-lookalike-attributes": "false"}
        with httpx.Client(timeout=60) as client:
            for name in names:
                if self._stop.is_set():
                    return
                self.answers.append(self._answer(client, name, headers))

    def _answer(self, client: httpx.Client, name: str, headers: dict[str, str]) -> tuple[int, str, bool, str]:
        try:
            reply = client.post(f"{self.url}/predictions/search", content=self.pictures[name], headers=headers)
        except httpx.HTTPError as error:
            return 0, "", False, repr(error)
        if reply.status_code != 200:
            return reply.status_code, "", False, reply.text
        body: dict[str, Any] = reply.json()
        best = body["hits"][0]
        # The catalogue's own picture: in its own index it is its own best hit, at a similarity of 1.
        right = best["item_id"] == name and best["similarity"] > 0.999
        return 200, str(body["index"]["version"]), right, str(best)


def wait_until(condition: Callable[[], bool], limit_s: float = 60) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "it did not come about"
        time.sleep(0.05)


def pictures(world: World) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted(world.catalogue.parent.glob("*.png"))}


def health(server: ServerProcess) -> dict[str, Any]:
    return dict(httpx.get(f"{server.base_url}/predictions/search/1.0/healthz", timeout=60).json())


def test_the_pods_that_come_with_the_new_embedder_wait_for_its_index(world: World) -> None:
    new = world.fingerprint("new")
    result = lookalike(
        "index", "pull", world.index_url, "--index-dir", world.folder / "early", "--models", world.archives["new"]
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert f"no index of embedder {new}" in result.stderr
    assert lookalike("index", "status", world.index_url, "--models", world.archives["new"]).returncode == 1


def test_shards_make_the_index_that_one_process_makes_with_the_real_embedder(world: World) -> None:
    embedder = WholeImageEmbedder.load(ROOT / "var/models/embedder")
    alone = IndexEditor(world.folder / "alone", IndexSettings()).build(read_catalogue(world.catalogue), embedder)
    done("index", "pull", world.index_url, "--index-dir", world.folder / "together")
    one, other = open_index(world.folder / "alone"), open_index(world.folder / "together")
    assert one.manifest.files["items.arrow"] == other.manifest.files["items.arrow"]
    assert one.manifest.fingerprint == other.manifest.fingerprint == alone.manifest.fingerprint
    np.testing.assert_allclose(one.vectors, other.vectors, atol=1e-5)


def test_a_change_of_the_embedder_fails_no_request_and_answers_from_no_wrong_pair(world: World) -> None:
    old, new = world.fingerprint("old"), world.fingerprint("new")
    routers_index = world.folder / "routers-index"
    with ExitStack() as stack:
        stack.enter_context(followed(world, routers_index))
        service, embedders = (stack.enter_context(running_balancer()) for _ in range(2))
        split = stack.enter_context(split_server(world, embedders, routers_index))
        old_pod = stack.enter_context(pod(world, "old"))
        old_version = str(IndexLayout(routers_index).current_version())

        # 1. The old pair serves; the new index is built and published beside it.
        service.targets = [old_pod.base_url]
        split_load = stack.enter_context(Load(split.base_url, pictures(world)))
        pod_load = stack.enter_context(Load(service.url, pictures(world)))
        for load in (split_load, pod_load):
            load.wait_for(20)
        build_in_shards(world, "new")
        wait_until(lambda: new in health(split)["open_indexes"])
        new_version = str(IndexLayout(routers_index).current_version())
        for load in (split_load, pod_load):
            load.wait_for(20)
            assert load.versions_since(0) == {old_version}

        # 2. New pods come up beside the old ones; an old one that starts again gets the old pair.
        new_pod = stack.enter_context(pod(world, "new", ("embedder", "search")))
        again = world.folder / "again"
        done("index", "pull", world.index_url, "--index-dir", again, "--models", world.archives["old"])
        assert IndexLayout(again).current_version() == old_version
        service.targets = [old_pod.base_url, new_pod.base_url]
        embedders.targets = [split.base_url, new_pod.base_url]
        for load in (split_load, pod_load):
            start = len(load.answers)
            load.wait_for(60)
            assert load.versions_since(start) == {old_version, new_version}

        # 3. The old ones go.
        service.targets, embedders.targets = [new_pod.base_url], [new_pod.base_url]
        for load in (split_load, pod_load):
            load.wait_for(10)  # what was under way ends
            start = len(load.answers)
            load.wait_for(20)
            assert load.versions_since(start) == {new_version}
        assert health(split)["ready"] is True
        assert health(split)["open_indexes"] == {old: old_version, new: new_version}

        # 4. The old version is let go.
        done("index", "retire", "--at", world.index_url)
        wait_until(lambda: health(split)["open_indexes"] == {new: new_version})
        for load in (split_load, pod_load):
            load.stop()  # before the servers do
    for load in (split_load, pod_load):
        assert [answer for answer in load.answers if answer[0] != 200] == []
        assert [answer for answer in load.answers if not answer[2]] == []


@contextmanager
def split_server(world: World, embedders: Balancer, index_dir: Path) -> Iterator[ServerProcess]:
    """A router that reaches the embedder through a Service; the old embedder is one of its servers."""
    (port,) = free_ports("127.0.0.1", 1)
    embedders.targets = [f"http://127.0.0.1:{port}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOOKALIKE_ROUTER_MODELS", "http")
        patch.setenv("LOOKALIKE_ROUTER_EMBEDDER_URL", f"{embedders.url}/predictions/embedder")
        models = ("detector", "embedder", "metadata_creator", "search")
        state = world.folder / "split-state"
        with started(world.archives["old"], index_dir, state, models, port) as server:
            yield server


def test_the_two_embedders_are_two(world: World) -> None:
    """What the test above would see if a wrong pair answered: nothing like a similarity of 1."""
    done("index", "pull", world.index_url, "--index-dir", world.folder / "check")
    new_index = open_index(world.folder / "check")
    old_index = open_index(world.folder / "alone")
    assert new_index.manifest.fingerprint != old_index.manifest.fingerprint
    hits = new_index.search(old_index.vectors, 1)
    assert max(found[0].similarity for found in hits) < 0.9
