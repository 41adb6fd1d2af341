"""Measures a whole search over HTTP against the same stages run bare in one process, in turns, and the router's memory.

Run:
    python -m benchmarks.bench_search
    python -m benchmarks.bench_search --items 10000 --searches 200 --memory-searches 2000
"""

import argparse
import asyncio
import io
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmarks.private_server import (
    ITEMS,
    ROOT,
    WARM_UP,
    connect,
    private_server,
    search_over,
    worker_rss_mb,
)
from lookalike.clients import MODEL_NAMES, LocalModelClient
from lookalike.config import IndexSettings, ModelSettings, RouterSettings
from lookalike.golden.draw import draw_golden_image
from lookalike.index.faiss_index import open_index
from lookalike.pipeline import SearchPipeline
from lookalike.scene import compose_scene
from lookalike.schemas import SearchRequest, SearchResponse
from lookalike.server import ServerProcess
from lookalike.stage_timer import Deadline

PHOTOS = 8


def photos() -> list[bytes]:
    """Return JPEGs of 1152x864 px (1 MP), each of one object in a drawn room."""
    encoded = []
    for seed in range(PHOTOS):
        scene, _ = compose_scene(draw_golden_image().convert("RGBA").resize((400, 300)), None, seed)
        buffer = io.BytesIO()
        scene.save(buffer, "JPEG", quality=88)
        encoded.append(buffer.getvalue())
    return encoded


class BareSearch:
    """The same pipeline, models and index in this process, without a server."""

    def __init__(self, index_dir: Path) -> None:
        router, self._executor = RouterSettings(), ThreadPoolExecutor(1)
        folders = [ROOT / "var/models" / name for name in MODEL_NAMES]
        client = LocalModelClient.load(*folders, ModelSettings(), self._executor, router.min_detection_score)
        index = open_index(index_dir, IndexSettings())
        self._pipeline = SearchPipeline(client, lambda: index, router, self._executor)

    async def search(self, photo: bytes) -> SearchResponse:
        """Search once."""
        return await self._pipeline.search(SearchRequest(image=photo), "bare", Deadline(10_000))


def compare(server: ServerProcess, index_dir: Path, searches: int) -> None:
    """Search over HTTP and bare in turns; print medians, p95, the ratio, and the medians of the stages."""
    sample, bare = photos(), BareSearch(index_dir)
    times_ms: dict[str, list[float]] = {"HTTP": [], "bare": []}
    stages: dict[str, list[dict[str, float]]] = {"HTTP": [], "bare": []}
    with closing(connect(server)) as client, asyncio.Runner() as runner:
        for number in range(-WARM_UP, searches):
            photo = sample[number % PHOTOS]
            start_s = time.perf_counter()
            answer = search_over(client, photo)
            http_s = time.perf_counter()
            response = runner.run(bare.search(photo))
            bare_s = time.perf_counter()
            if number < 0:
                continue  # warming up
            for name, ms, timings in (
                ("HTTP", http_s - start_s, answer["timings_ms"]),
                ("bare", bare_s - http_s, response.timings_ms),
            ):
                times_ms[name].append(ms * 1000)
                stages[name].append(timings)
    report(times_ms, stages)


def report(times_ms: dict[str, list[float]], stages: dict[str, list[dict[str, float]]]) -> None:
    print(f"one client, {len(times_ms['HTTP'])} searches of 1 MP photos, in turns with the bare stages\n")
    names = list(stages["HTTP"][0])
    print("| | p50 ms | p95 ms | " + " | ".join(names) + " |")
    print("|---|---:|---:|" + "---:|" * len(names))
    for way, values in times_ms.items():
        medians = " | ".join(f"{np.median([timing[name] for timing in stages[way]]):.1f}" for name in names)
        print(f"| {way} | {np.median(values):.1f} | {np.percentile(values, 95):.1f} | {medians} |")
    ratio = np.median(np.array(times_ms["HTTP"]) / np.array(times_ms["bare"]))
    print(f"\nHTTP / bare, median of the pairs: {ratio:.2f}")


def measure_memory(server: ServerProcess, searches: int) -> None:
    """Print every worker's resident memory at ten points of so many searches."""
    sample = photos()
    print(f"\nresident memory of the workers in MB over {searches} searches, after {searches // 10} to warm up")
    with closing(connect(server)) as client:
        for number in range(-searches // 10, searches + 1):
            if number >= 0 and number % (searches // 5) == 0:
                told = "  ".join(f"pid {pid}: {mb:.1f}" for pid, mb in sorted(worker_rss_mb(server).items()))
                print(f"{number:6d}  {told}", flush=True)
            search_over(client, sample[number % PHOTOS])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--memory-searches", type=int, default=2000, help="0: leave the memory out")
    arguments = parser.parse_args()
    with private_server(arguments.items) as (server, index_dir):
        compare(server, index_dir, arguments.searches)
        if arguments.memory_searches:
            measure_memory(server, arguments.memory_searches)


if __name__ == "__main__":
    main()
