"""How long an index takes into a store and out of it again: `python -m benchmarks.bench_delivery`.

The store is a real S3 server in this process (moto, in Python: a production server is faster), and a folder.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.bench_index_load import build
from lookalike.delivery.index_store import IndexStore, push_index
from lookalike.delivery.pull import IndexPuller
from lookalike.delivery.store import open_store
from tests.s3_server import running_s3

KEEP = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, running_s3() as s3:
        folder = Path(temporary)
        build(folder / "index", "flat", given.count, given.dim)
        size = sum(path.stat().st_size for path in (folder / "index/versions").rglob("*") if path.is_file())
        print(f"{given.count} items x {given.dim}: {size / 1e6:.0f} MB")
        measure("S3 server", s3.url("index"), folder)
        measure("folder", str(folder / "store"), folder)


def measure(name: str, url: str, folder: Path) -> None:
    target, here = IndexStore(open_store(url)), folder / f"here-{name}"
    push_s = seconds(lambda: push_index(folder / "index", target, KEEP))
    puller = IndexPuller(target, here, KEEP)
    pull_s, look_s = seconds(puller.pull), seconds(puller.pull)
    first_s = seconds(IndexPuller(target, here, KEEP).pull)
    print(
        f"{name}: push {push_s:.2f} s, pull {pull_s:.2f} s, a look that finds nothing new {1000 * look_s:.0f} ms, "
        f"the first look of another process {first_s:.2f} s"
    )


def seconds(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


if __name__ == "__main__":
    main()
