"""Bulk runs on Ray itself, small ones: a kill -9 and what follows, and actors that hold a GPU of their own."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookalike.bulk import job
from lookalike.bulk.embedder import BulkOptions
from lookalike.bulk.load import load_embeddings
from lookalike.bulk.output import BulkOutput
from lookalike.delivery.store import open_store
from lookalike.errors import SetupError
from lookalike.index.faiss_index import open_index
from tests.colour_embedder import save_picture
from tests.s3_server import S3Server
from tests.unit.test_bulk_parts import SETTINGS, alone, assert_same, shop

pytest.importorskip("ray", reason="bulk runs need the extra lookalike[bulk]")
ROOT = Path(__file__).parents[2]
STORE_BYTES = 200_000_000
LOCAL = {"cpus": 2, "object_store_bytes": STORE_BYTES}
LONGEST_S = 240


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """What Ray's processes get: a short temporary folder, since the paths of sockets are short, and no reports."""
    with TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        # A token of the tests' own: Ray would make one for the user of this machine, and keep it.
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        # Ray gives its workers the lowest priority: on a busy machine they would hardly start,
        # nor does it wait for long until all of it has started.
        waits = ["gcs_server_request_timeout_seconds", "gcs_rpc_server_connect_timeout_s", "raylet_start_wait_time_s"]
        waits += ["worker_register_timeout_seconds", "gcs_server_port_wait_time_s"]
        patience = {f"RAY_{name}": "200" for name in waits}
        usual = {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0", **patience}
        yield {"RAY_TMPDIR": folder, "PYTHONPATH": str(ROOT), **token, **usual}
        assert left_over(folder) == []


def left_over(folder: str, within_s: float = 20) -> list[int]:
    """Return the pids of Ray's processes that still run on `folder` after a while."""
    end_s = time.monotonic() + within_s
    while found := [
        one.pid for one in psutil.process_iter(["cmdline"]) if folder in " ".join(one.info["cmdline"] or [])
    ]:
        if time.monotonic() > end_s:
            break
        time.sleep(0.2)
    return found


def started(environment: dict[str, str], **asked: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.unit.bulk_run", json.dumps(asked)]
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def ended(run: subprocess.Popen[str]) -> dict[str, Any]:
    with run:
        try:
            out, error = run.communicate(timeout=LONGEST_S)
        finally:
            run.kill()
    assert run.returncode == 0, error
    return json.loads(out)


def test_a_run_that_is_killed_goes_on_and_embeds_each_image_once(tmp_path: Path, environment: dict[str, str]) -> None:
    source, told = shop(tmp_path / "shop", count=40), tmp_path / "told"
    asked = {"source": str(source), "output": str(tmp_path / "out"), "told": str(told)}
    asked |= {"options": {"part_items": 4, "batch_images": 2}, "cluster": LOCAL}
    output = BulkOutput(open_store(str(tmp_path / "out")))
    first = started(environment, pause_s=0.4, **asked)
    end_s = time.monotonic() + LONGEST_S
    while len(output.finished()) < 3 and first.poll() is None and time.monotonic() < end_s:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    _, error = first.communicate(timeout=LONGEST_S)
    assert first.returncode == -signal.SIGKILL, error
    assert left_over(environment["RAY_TMPDIR"]) == []
    done, before = output.finished(), told.read_text().split()
    assert 3 <= len(done) < 11 and output.summary() is None
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/parts").iterdir()}

    summary = ended(started(environment, **asked))
    assert summary == {"items": 42, "embeddings": 40, "duplicates": 2, "unreadable": 2, "ignored_files": 2}
    kept = sum(report.embedded for report in output.reports() if report.part in done)
    after = told.read_text().split()[len(before) :]
    assert len(after) == len(set(after)) == 40 - kept  # what was finished is not embedded again
    assert {path: path.stat().st_mtime_ns for path in written} == written
    load_embeddings(output, tmp_path / "index", SETTINGS, "skip")
    assert_same(tmp_path / "index", alone(source, tmp_path))


def test_actors_with_a_gpu_embed_a_list_in_a_bucket_into_a_bucket(
    tmp_path: Path, environment: dict[str, str], s3: S3Server, url: str
) -> None:
    """A GPU is a number to Ray: preparing and keeping get tasks of their own, as on a machine that has one."""
    rows = []
    for number in range(24):
        name = f"bulk/shop/{number % 20}.png"
        s3.put(name, save_picture(tmp_path / name, number % 20).read_bytes())
        rows.append({"item_id": f"item {number}", "path": f"{number % 20}.png", "colour": "red"})
    rows.append({"item_id": "gone", "path": "gone.png", "colour": None})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "list.parquet")
    s3.put("bulk/shop/list.parquet", (tmp_path / "list.parquet").read_bytes())
    told = tmp_path / "told"
    asked = {"source": s3.url("bulk/shop/list.parquet"), "output": url, "told": str(told)}
    asked |= {"options": {"part_items": 6, "cpus_per_actor": 0.5, "gpus_per_actor": 1}, "cluster": LOCAL | {"gpus": 1}}
    summary = ended(started(environment, **asked))
    assert summary == {"items": 24, "embeddings": 20, "duplicates": 4, "unreadable": 1, "ignored_files": 0}
    output = BulkOutput(open_store(url))
    assert "no such object in the store" in output.store.read("problems.jsonl").decode()
    load_embeddings(output, tmp_path / "index", SETTINGS, "keep")
    index = open_index(tmp_path / "index")
    assert index.items.item_ids() == [row["item_id"] for row in rows[:-1]]
    assert index.items.record("item 3").path == s3.url("bulk/shop/3.png")


class Small:
    """The one thing of Ray that is asked: what the machines of a cluster have, here more with every look."""

    def __init__(self, *looks: dict[str, float]) -> None:
        self._looks = iter(looks)

    def cluster_resources(self) -> dict[str, float]:
        return next(self._looks)


def test_what_no_machine_can_run_is_refused_and_machines_that_come_later_are_waited_for() -> None:
    on_gpus = BulkOptions(actors=2, gpus_per_actor=1, cpus_per_actor=1)
    with pytest.raises(SetupError, match=r"2 actors need 3\.25 cores and 2 GPUs in all; the cluster has 2 and 1"):
        job._check_room(Small({"CPU": 2, "GPU": 1}), on_gpus, 0)
    with pytest.raises(SetupError, match="1 actors need 4 cores"):
        job._check_room(Small({"CPU": 2}), BulkOptions(cpus_per_actor=4), 0)
    job._check_room(Small({"CPU": 0}, {"CPU": 4, "GPU": 2}), on_gpus, 60)
