"""Raw samples: what processes write is read back whole, and the figures are those of every single sample."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.load_run import read_spans
from benchmarks.samples import Sample, SampleFile, figures_of, percentiles_ms, read_samples
from benchmarks.shapes import SHAPES
from lookalike.errors import SetupError


def write(folder: Path, process: int, samples: list[Sample]) -> None:
    file = SampleFile(folder / f"samples-{process}.jsonl")
    for sample in samples:
        file.add(sample)
    file.close()


def test_percentiles_of_two_processes_files_are_numpys_of_all_raw_latencies(tmp_path: Path) -> None:
    latencies_ms = np.random.default_rng(0).lognormal(5, 0.7, 1001)
    samples = [Sample("search", "photo", float(i), float(ms)) for i, ms in enumerate(latencies_ms)]
    write(tmp_path, 1, samples[::2])
    write(tmp_path, 2, samples[1::2])
    read = read_samples(tmp_path)
    assert read == samples
    figures = figures_of(read)
    expected = np.percentile(latencies_ms, [50, 95, 99])
    assert [figures.p50_ms, figures.p95_ms, figures.p99_ms] == pytest.approx(expected.tolist(), rel=1e-12)
    # Of 1001 samples these percentiles are samples themselves: the 501st, the 951st, the 991st.
    ordered = sorted(latencies_ms)
    assert [figures.p50_ms, figures.p95_ms, figures.p99_ms] == pytest.approx([ordered[i] for i in (500, 950, 990)])


def test_what_failed_counts_as_an_error_and_not_as_a_quick_answer() -> None:
    samples = [Sample("search", "photo", 0, 100)] * 3 + [Sample("search", "photo", 0, 1, "status 503")]
    figures = figures_of(samples)
    assert (figures.n, figures.succeeded, figures.error_share, figures.p50_ms) == (4, 3, 0.25, 100)


def test_nothing_has_no_percentiles() -> None:
    assert all(np.isnan(value) for value in percentiles_ms([]).values())
    assert figures_of([]).n == 0


def test_a_cut_line_is_named(tmp_path: Path) -> None:
    write(tmp_path, 1, [Sample("search", "photo", 0, 1)])
    with (tmp_path / "samples-1.jsonl").open("a") as file:
        file.write('{"endpoint": "sea')
    with pytest.raises(SetupError, match=r"samples-1\.jsonl:2 is no sample"):
        read_samples(tmp_path)


def test_a_sample_belongs_to_the_phase_that_it_began_in(tmp_path: Path) -> None:
    (tmp_path / "phases.jsonl").write_text(
        '{"name": "warm-up", "start_s": 100.0}\n{"name": "steady", "start_s": 110.0}\n{"name": "end", "start_s": 150}\n'
    )
    begun_s = [100.0, 109.9, 110.0, 149.9, 150.1]
    write(tmp_path, 1, [Sample("two_trip.search", "photo", s, 20_000) for s in begun_s])
    write(tmp_path, 2, [Sample("two_trip", "photo", s, 40_000) for s in begun_s])
    warm_up, steady = read_spans(tmp_path, "steady")
    assert (warm_up.phase, steady.phase) == SHAPES["steady"]
    assert [s.start_s for s in steady.samples if s.endpoint == "two_trip"] == [110.0, 149.9]
    assert steady.tasks_per_s == 2 / 40  # both trips are one task
    assert steady.figures_by(lambda sample: sample.endpoint)["two_trip"].p50_ms == 40_000
