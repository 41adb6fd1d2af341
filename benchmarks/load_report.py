"""What a load test prints: figures by phase and endpoint, and each verdict with by how much it was missed."""

from collections.abc import Mapping, Sequence

from benchmarks.gate import Verdict
from benchmarks.load_run import Span, figures_by
from benchmarks.samples import Figures


def print_figures(spans: Sequence[Span]) -> None:
    """Print every phase's figures, and of the judged ones the searches by kind of photo."""
    rows = [
        (f"{span.phase.name}, {span.tasks_per_s:.1f} tasks/s", endpoint, figures)
        for span in spans
        for endpoint, figures in span.figures_by(lambda sample: sample.endpoint).items()
    ]
    _print_table(["phase", "endpoint"], rows)
    searches = [sample for span in spans if span.phase.judged for sample in span.samples if sample.endpoint == "search"]
    by_photo = figures_by(searches, lambda sample: sample.photo)
    _print_table(["judged phases", "photo"], [("search", photo, figures) for photo, figures in by_photo.items()])
    for error, count in _errors(spans).items():
        print(f"{count} x {error}")


def _print_table(names: Sequence[str], rows: Sequence[tuple[str, str, Figures]]) -> None:
    print(
        f"\n| {' | '.join(names)} | samples | errors | p50 ms | p95 ms | p99 ms |\n|---|---|---:|---:|---:|---:|---:|"
    )
    for first, second, figures in rows:
        percentiles = f"{figures.p50_ms:.1f} | {figures.p95_ms:.1f} | {figures.p99_ms:.1f}"
        print(f"| {first} | {second} | {figures.n} | {figures.error_share:.2%} | {percentiles} |")


def _errors(spans: Sequence[Span]) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for span in spans:
        for sample in span.samples:
            if sample.error:
                told = f"{span.phase.name}, {sample.endpoint}: {sample.error}"
                counts[told] = counts.get(told, 0) + 1
    return counts


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print one line a verdict."""
    print("\n| phase | endpoint | figure | against | allowed | measured | | by |\n|---|---|---|---|---:|---:|---|---|")
    for v in verdicts:
        state = v.state if v.state == "met" else f"**{v.state}**"
        figures = f"{v.allowed:.4g} | {v.measured:.4g}"
        print(f"| {v.phase} | {v.endpoint} | {v.figure} | {v.against} | {figures} | {state} | {v.excess} |")
