"""Turns what was measured into Markdown tables; every ratio is against Lookalike."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from benchmarks.peers.measure import Results, Sample

Figure = Callable[[Sequence[Sample]], float]

PERCENTILES = (50, 95, 99)
NOTHING = "–"


def format_report(results: Results, reference: str) -> str:
    """Return the tables: one client, all numbers of clients, equal p99, ratios, and what was left out."""
    parts = [
        "### One client\n\n" + one_client_table(results),
        "### Closed loop\n\nSearches/s and, in brackets, the p99 in ms.\n\n" + closed_loop_table(results),
        "### Throughput at equal p99\n\n"
        f"Searches/s with a p99 no longer than {reference}'s at so many clients (head of the column); in brackets "
        f"against {reference}.\n\n" + equal_p99_table(results, reference),
        f"### Against {reference}\n\n"
        "Median of the rounds' ratios, lowest and highest in brackets.\n\n" + ratio_table(results, reference),
    ]
    if results.left_out:
        reasons = "\n".join(f"- {name}: {reason}" for name, reason in results.left_out.items())
        parts.append(f"### Left out\n\n{reasons}")
    return "\n\n".join(parts) + "\n"


def one_client_table(results: Results) -> str:
    """Return latencies at one client, CPU and memory, and what others used of the machine meanwhile."""
    header = [*(f"p{q} ms" for q in PERCENTILES), "CPU ms a search", "memory MB", "ready after s", "others' CPU"]
    fewest, rows = numbers_of_clients(results)[0], []
    for system in names(results):
        samples, starts = of(results, system), [start for start in results.starts if start.system == system]
        rows.append(
            [
                system,
                *(f"{percentile_at(fewest, q, samples):.1f}" for q in PERCENTILES),
                f"{cpu_ms(samples):.1f}",
                f"{np.median([start.memory_mb for start in starts]):.0f}",
                f"{np.median([start.ready_s for start in starts]):.1f}",
                f"{np.mean([sample.others_share for sample in samples]):.0%}",
            ]
        )
    return table(["system", *header], rows)


def closed_loop_table(results: Results) -> str:
    """Return throughput and p99 at each number of clients."""
    clients = numbers_of_clients(results)
    rows = []
    for system in names(results):
        curve = points(results, system)
        rows.append([system, *(f"{rate:.1f} ({p99_ms:.0f})" for p99_ms, rate in curve)])
    return table(["system", *(f"{count} client{'s' * (count > 1)}" for count in clients)], rows)


def equal_p99_table(results: Results, reference: str) -> str:
    """Return each system's throughput within the p99 that the reference has at each number of clients."""
    limits = points(results, reference)
    rows = []
    for system in names(results):
        rates = [rate_within(points(results, system), p99_ms) for p99_ms, _ in limits]
        rows.append([system, *(_rate_cell(rate, own) for rate, (_, own) in zip(rates, limits, strict=True))])
    clients = numbers_of_clients(results)
    header = [f"{p99_ms:.0f} ms ({count})" for count, (p99_ms, _) in zip(clients, limits, strict=True)]
    return table(["system", *header], rows)


def _rate_cell(rate: float | None, reference_rate: float) -> str:
    return NOTHING if rate is None else f"{rate:.1f} ({rate / reference_rate:.2f})"


def ratio_table(results: Results, reference: str) -> str:
    """Return ratios, each within one round, so that what slows the machine for a while slows both sides."""
    fewest, rows = numbers_of_clients(results)[0], []
    figures: dict[str, Figure] = {f"p{q}": partial(percentile_at, fewest, q) for q in PERCENTILES}
    figures |= {"most searches/s": lambda samples: max(s.searches_per_s for s in samples), "CPU": cpu_ms}
    for system in names(results):
        cells = [_spread(_ratios(results, system, reference, figure)) for figure in figures.values()]
        memory = [_memory_by_round(results, name) for name in (system, reference)]
        rows.append([system, *cells, _spread([memory[0][number] / memory[1][number] for number in memory[0]])])
    return table(["system", *figures, "memory"], rows)


def _ratios(results: Results, system: str, reference: str, figure: Figure) -> list[float]:
    rounds = sorted({sample.round for sample in results.samples})
    by_round = [
        [[s for s in of(results, name) if s.round == number] for name in (system, reference)] for number in rounds
    ]
    return [figure(own) / figure(other) for own, other in by_round]


def _memory_by_round(results: Results, system: str) -> dict[int, float]:
    return {start.round: start.memory_mb for start in results.starts if start.system == system}


def _spread(ratios: Sequence[float]) -> str:
    return f"{np.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def rate_within(curve: Sequence[tuple[float, float]], limit_ms: float) -> float | None:
    """Return the searches/s that a system gives with a p99 of at most `limit_ms`; None when it has no such p99.

    `curve` has the p99 and the searches/s at each number of clients, fewest first; between two of them the rate is
    taken from the straight line, beyond the last one it stays.
    """
    p99s, rates = np.array(curve).T
    # A busy moment may give fewer clients the longer p99: what more clients have within it, fewer could have, too.
    p99s = np.minimum.accumulate(p99s[::-1])[::-1]
    if limit_ms < p99s[0]:
        return None
    return float(np.interp(limit_ms, p99s, np.maximum.accumulate(rates)))


def points(results: Results, system: str) -> list[tuple[float, float]]:
    """Return a system's p99 in ms and its searches/s over all rounds, at each number of clients."""
    curve = []
    for clients in numbers_of_clients(results):
        samples = of(results, system, clients)
        searches, elapsed_s = latencies_ms(samples), sum(sample.elapsed_s for sample in samples)
        curve.append((float(np.percentile(searches, 99)), len(searches) / elapsed_s))
    return curve


def of(results: Results, system: str, clients: int | None = None) -> list[Sample]:
    """Return a system's samples, at one number of clients or at all."""
    return [s for s in results.samples if s.system == system and clients in (None, s.clients)]


def latencies_ms(samples: Sequence[Sample]) -> list[float]:
    """Return the latencies of all searches in `samples`."""
    return [ms for sample in samples for ms in sample.latencies_ms]


def percentile_at(clients: int, percentile: float, samples: Sequence[Sample]) -> float:
    """Return a percentile of the latencies in ms at one number of clients."""
    return float(np.percentile(latencies_ms([s for s in samples if s.clients == clients]), percentile))


def cpu_ms(samples: Sequence[Sample]) -> float:
    """Return the server's CPU time for one search."""
    return 1000 * sum(sample.cpu_s for sample in samples) / len(latencies_ms(samples))


def names(results: Results) -> list[str]:
    """Return the systems that were measured, sorted."""
    return sorted({sample.system for sample in results.samples})


def numbers_of_clients(results: Results) -> list[int]:
    """Return the numbers of clients that were measured, fewest first."""
    return sorted({sample.clients for sample in results.samples})


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose first column holds names and whose others hold figures."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
