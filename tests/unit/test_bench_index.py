"""The comparison of indexes, end to end on a small catalogue, and its parts."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_index, exact_job
from benchmarks.bench_index import Built, Measured, Point
from benchmarks.index_data import Seeds
from benchmarks.index_engines import ENGINES
from benchmarks.index_report import chosen_point, format_tables
from lookalike.index.ivf import best_of


def measured(*points: tuple[int, float, float]) -> Measured:
    return Measured(
        engine="hnsw",
        distribution="made-up",
        count=100,
        dim=8,
        built=Built(wall_s=5, cpu_s=1),
        disk_mb=2,
        memory_mb=3,
        setting_name="ef",
        points=[
            Point(setting=s, ann_recall_at_10=recall, p50_ms=ms, p99_ms=2 * ms, queries_per_s=1000 / ms)
            for s, recall, ms in points
        ],
    )


def test_faiss_kinds_are_built_measured_reported_and_not_built_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["exact", "ivf", "ivf sq8, re-ranked", "hnsw"]
    given = [
        "--sizes",
        "2000",
        "--dim",
        "32",
        "--distributions",
        "made-up",
        "--out",
        str(tmp_path),
        "--engines",
        *names,
    ]
    assert bench_index.main(given) == 0
    told = capsys.readouterr().out
    assert all(f"| {name} |" in told for name in names)
    assert all(f"| made-up, 2,000 | {name} | at random | " in told for name in ("exact", "ivf", "hnsw"))
    assert (tmp_path / "index.png").stat().st_size > 1000
    results = {
        name: json.loads(path.read_text()) for path in tmp_path.glob("made-up/measured-*") for name in [path.name]
    }
    assert results["measured-exact-2000.json"]["points"][0]["ann_recall_at_10"] == 1.0
    best = max(point["ann_recall_at_10"] for point in results["measured-hnsw-2000.json"]["points"])
    assert best > 0.95
    built = (tmp_path / "made-up/hnsw-2000.index").stat().st_mtime_ns
    assert bench_index.main(given) == 0
    assert (tmp_path / "made-up/hnsw-2000.index").stat().st_mtime_ns == built


def test_the_fastest_setting_that_finds_enough_is_reported_else_the_one_that_finds_most() -> None:
    enough = measured((16, 0.9, 1.0), (64, 0.99, 2.0), (128, 0.999, 4.0))
    assert chosen_point(enough).setting == 64
    assert chosen_point(measured((16, 0.9, 1.0), (32, 0.95, 2.0))).setting == 32
    assert "| hnsw | ef 64 | 0.990 | 2.00 | 4.00 | 500 | 3 | 2 | 1 (5) |" in format_tables([enough])


def test_candidates_are_ordered_by_their_embeddings_and_padding_stays_last() -> None:
    vectors = np.eye(4, dtype=np.float32)
    query = np.array([[0.1, 0.9, 0.3, 0.2]], dtype=np.float32)
    assert best_of(vectors, query, np.array([[0, 3, -1, 1]]), 3)[1].tolist() == [[1, 3, 0]]
    assert best_of(vectors, query, np.array([[2, -1, -1, -1]]), 3)[1].tolist() == [[2, -1, -1]]


def test_repeats_lie_as_near_to_their_seed_as_real_neighbours_do() -> None:
    random = np.random.default_rng(0)
    centres = random.standard_normal((40, 16))
    real = centres[random.integers(0, 40, 800)] + 0.3 * random.standard_normal((800, 16))
    embeddings = np.asarray(real / np.linalg.norm(real, axis=1, keepdims=True), dtype=np.float32)
    seeds = Seeds(embeddings)
    repeats = seeds.repeated(500, seed=1)
    np.testing.assert_allclose(np.linalg.norm(repeats, axis=1), 1, atol=1e-5)
    nearest = np.median((repeats @ embeddings.T).max(axis=1))
    assert nearest == pytest.approx(seeds.nearest, abs=0.03)
    assert not np.array_equal(repeats, seeds.repeated(500, seed=2))


def test_every_engine_has_a_name_of_its_own_and_a_package() -> None:
    assert len(ENGINES) == 11
    assert {engine.package for engine in ENGINES.values()} == {"faiss", "hnswlib", "usearch", "annoy"}


def test_the_exact_job_says_its_share_of_the_peak(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact_job, "sgemm_gflops", lambda: 50.0)
    monkeypatch.setattr(exact_job, "search_s", lambda items, queries, k: len(queries) * 2 * 300 * 16 / 25e9)
    monkeypatch.setattr(exact_job, "_QUERIES_A_TURN", 64)
    assert exact_job.main(["--queries", "200", "--items", "300", "--dim", "16", "--k", "5"]) == 0
    told = capsys.readouterr().out
    assert "200 queries in 300 x 16, k = 5: 0.0 s, 25 GFLOP/s; sgemm 50 GFLOP/s" in told
    assert "50% of it (median of 4; 50% to 50%)" in told


def test_the_exact_job_searches_every_query(capsys: pytest.CaptureFixture[str]) -> None:
    assert exact_job.main(["--queries", "100", "--items", "300", "--dim", "16", "--k", "5"]) == 0
    assert "100 queries in 300 x 16, k = 5:" in capsys.readouterr().out
