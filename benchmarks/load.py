"""Runs the clients of `locustfile.py` against a server and judges the raw samples by `budgets.yaml`; no second try.

Run:
    python -m benchmarks.load                                    # a private server, steady, the budgets of this machine
    python -m benchmarks.load --shape spike --tasks-per-s 3
    python -m benchmarks.load --host http://10.0.0.7:8080 --machine epyc-2 --photos ~/photos

Exit status 1: on equal hardware a budget was missed or the run fell behind its baseline; or it could not run.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks.budgets import BUDGETS_FILE, Budgets, Machine, read_budgets
from benchmarks.command import exit_status, new_run_dir, positive, positive_count
from benchmarks.gate import (
    RunRecord,
    Verdict,
    baseline_file,
    judge_budgets,
    judge_rate,
    judge_regressions,
    read_record,
    why_not_comparable,
    write_record,
)
from benchmarks.hardware import load_average
from benchmarks.load_report import print_figures, print_verdicts
from benchmarks.load_run import Plan, Span, run_clients
from benchmarks.photos import load_photos, photos_for
from benchmarks.private_server import ROOT, worker_rss_mb
from benchmarks.server_under_test import add_server_options, judged_by, server_under_test
from benchmarks.shapes import SECONDS, SHAPES


def run(options: argparse.Namespace) -> int:
    """Run once; return the exit status.

    Raises:
        LookalikeError: it could not run.
    """
    budgets = read_budgets(options.budgets)
    hardware, machine = judged_by(budgets, options.host, options.machine)
    folder, said = photos_for(options.photos)
    load_photos(folder)  # what is wrong with a photo is said before a server starts
    rate = options.tasks_per_s or (machine.tasks_per_s if machine else budgets.unknown_hardware_tasks_per_s)
    seconds = options.seconds or SECONDS[options.shape]
    print(
        f"{hardware or 'unknown hardware'}; {options.shape}, {rate:g} tasks/s, {seconds:g} s; {said}; {load_average()}",
        flush=True,
    )
    with server_under_test(options.host, options.items) as (base_url, server):
        run_dir = new_run_dir(options.out, options.shape)
        before = worker_rss_mb(server) if server else {}
        spans = run_clients(Plan(base_url, options.shape, rate, seconds, folder, options.processes), run_dir)
        after = worker_rss_mb(server) if server else {}
    print_figures(spans)
    for pid in sorted(before.keys() & after.keys()):
        print(f"resident memory of worker {pid}: {before[pid]:.0f} MB before, {after[pid]:.0f} MB after")
    record = RunRecord(
        hardware=hardware,
        taken=datetime.now(UTC).date(),
        shape=options.shape,
        photos=said,
        tasks_per_s=rate,
        figures={s.phase.name: s.figures_by(lambda sample: sample.endpoint) for s in spans if s.phase.judged},
    )
    write_record(run_dir / "record.json", record)
    print(f"\nraw samples and figures: {run_dir}")
    if options.save_baseline:
        verdicts = judge_by_budgets(budgets, machine, spans, record)
        return max(conclude(verdicts), keep_as_baseline(record, verdicts))
    regressions = judge_by_baseline(budgets, record, options.baseline)
    return conclude(judge_by_budgets(budgets, machine, spans, record) + regressions)


def judge_by_budgets(
    budgets: Budgets, machine: Machine | None, spans: Sequence[Span], record: RunRecord
) -> list[Verdict]:
    """Return the verdicts that gate; those of other hardware or at another rate are printed only."""
    if machine is None:
        print(f"no budgets for this hardware in {BUDGETS_FILE.name}: figures are reported, nothing is judged")
        return []
    judged = [span for span in spans if span.phase.judged]
    rates = [judge_rate(s.phase.name, record.tasks_per_s * s.phase.height, s.tasks_per_s) for s in judged]
    verdicts = rates + judge_budgets(machine, record.figures)
    if machine.hardware != record.hardware:
        return _only_reported(verdicts, f"the budgets are those of {machine.hardware}")
    if machine.tasks_per_s != record.tasks_per_s:
        return _only_reported(verdicts, f"the budgets hold at {machine.tasks_per_s:g} tasks/s")
    return verdicts


def judge_by_baseline(budgets: Budgets, record: RunRecord, named: Path | None) -> list[Verdict]:
    """Return the verdicts that gate; beside a baseline that is not of equal conditions they are printed only."""
    path = named or (baseline_file(record.hardware, record.shape) if record.hardware else None)
    if path is None or (named is None and not path.is_file()):
        print("no baseline of this hardware: --save-baseline keeps a run as one")
        return []
    earlier = read_record(path)
    verdicts = judge_regressions(budgets.growth, earlier, record.figures)
    reason = why_not_comparable(earlier, record)
    return _only_reported(verdicts, f"{path.name} has {reason}") if reason else verdicts


def _only_reported(verdicts: Sequence[Verdict], reason: str) -> list[Verdict]:
    print(f"\n{reason}: reported, not judged")
    print_verdicts(verdicts)
    return []


def conclude(verdicts: Sequence[Verdict]) -> int:
    """Print what gates; return the exit status."""
    if not verdicts:
        return 0
    print_verdicts(verdicts)
    missed = [verdict for verdict in verdicts if verdict.state != "met"]
    print(f"\n{len(verdicts) - len(missed)} of {len(verdicts)} met")
    return 1 if missed else 0


def keep_as_baseline(record: RunRecord, verdicts: Sequence[Verdict]) -> int:
    """Keep a run that met its budgets; return the exit status."""
    if record.hardware is None or any(verdict.state != "met" for verdict in verdicts):
        print("not kept as a baseline: " + ("the hardware is not known" if record.hardware is None else "see above"))
        return 1
    path = baseline_file(record.hardware, record.shape)
    write_record(path, record)
    print(f"kept as the baseline {path}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_server_options(parser)
    parser.add_argument("--shape", choices=list(SHAPES), default="steady")
    parser.add_argument(
        "--tasks-per-s", type=positive, help="at the shape's full height; the machine's own when left out"
    )
    parser.add_argument("--seconds", type=positive, help="of the whole run; the shape's own when left out")
    parser.add_argument("--photos", type=Path, help="a folder of images; a default mix is composed when left out")
    parser.add_argument(
        "--processes", type=positive_count, default=1, help="of the clients, where one core is too few for them"
    )
    parser.add_argument("--budgets", type=Path, default=BUDGETS_FILE)
    parser.add_argument("--baseline", type=Path, help="a run to compare with; this hardware's own when left out")
    parser.add_argument("--save-baseline", action="store_true", help="keep this run as this hardware's baseline")
    parser.add_argument("--out", type=Path, default=ROOT / "var/bench/load")
    options = parser.parse_args(argv)
    return exit_status(partial(run, options))


if __name__ == "__main__":
    sys.exit(main())
