"""Compares Lookalike with its models behind other serving stacks, in one session and in turns (docs/peers.md).

Run:
    python -m benchmarks.peers --install
    python -m benchmarks.peers --peers fastapi litserve --searches 50 --rounds 2
"""

import argparse
import datetime
import logging
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from benchmarks.bench_search import photos
from benchmarks.command import exit_status, positive_count
from benchmarks.hardware import this_hardware
from benchmarks.peers.errors import AnswersDiffer, PeerFailed
from benchmarks.peers.install import install, pinned_version, python_of
from benchmarks.peers.measure import WARM_UP, Plan, compare
from benchmarks.peers.processes import adopt_orphans
from benchmarks.peers.report import format_report
from benchmarks.peers.systems import STACKS, Lookalike, Peer, System
from benchmarks.private_server import ITEMS, ROOT, index_for_built_embedder
from lookalike.clients import MODEL_NAMES
from lookalike.config import ModelSettings, RouterSettings
from lookalike.errors import SetupError
from lookalike.model_store import BuiltModel, read_built_model
from lookalike.runtimes import available_cores
from lookalike.server_config import ServerSettings


def setting(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    known = [
        f"{settings.model_config.get('env_prefix', '')}{field.upper()}"
        for settings in (ServerSettings, RouterSettings, ModelSettings)
        for field in settings.model_fields
    ]
    if name not in known or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE with a name among {', '.join(known)}")
    return name, value


def arguments_in(argv: Sequence[str] | None) -> argparse.Namespace:
    cores = available_cores()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", choices=sorted(STACKS), default=sorted(STACKS))
    workers = sorted({1, cores})
    parser.add_argument(
        "--workers",
        nargs="+",
        type=positive_count,
        default=workers,
        help="worker processes of a peer, which share the cores",
    )
    parser.add_argument(
        "--also-lookalike",
        nargs="+",
        type=setting,
        metavar="NAME=VALUE",
        help="measure a second Lookalike with these settings (docs/serving.md), e.g. LOOKALIKE_ROUTER_MODELS=http",
    )
    parser.add_argument("--clients", nargs="+", type=positive_count, default=[1, 2, 4, 8])
    parser.add_argument("--searches", type=positive_count, default=100, help="at each number of clients in each round")
    parser.add_argument(
        "--warm-up", type=positive_count, default=WARM_UP, help="searches of a started system before the timed ones"
    )
    parser.add_argument("--rounds", type=positive_count, default=3)
    parser.add_argument("--items", type=positive_count, default=ITEMS, help="of the index, made up")
    parser.add_argument("--seed", type=int, default=0, help="of the order in the rounds")
    parser.add_argument("--install", action="store_true", help="make the peers' virtual environments first")
    parser.add_argument("--quiet-s", type=float, default=20.0, help="wait so long at most for other processes to rest")
    parser.add_argument("--lock", type=Path, help="a file that is locked during each round, as flock does")
    parser.add_argument("--output", type=Path, help="a file for the report, which is printed in any case")
    return parser.parse_args(argv)


def usable(peers: Sequence[str], with_install: bool) -> tuple[list[str], dict[str, str]]:
    """Return the peers whose environment is there, after installing where asked, and the reasons of the others."""
    ready, left_out = [], {}
    for peer in peers:
        try:
            if with_install:
                logging.info("installing %s", peer)
                install(peer)
            python_of(peer)
            ready.append(peer)
        except PeerFailed as error:
            left_out[peer] = error.message
    return ready, left_out


def built_models() -> dict[str, BuiltModel]:
    return {name: read_built_model(ROOT / "var/models" / name) for name in MODEL_NAMES}


@contextmanager
def models_unchanged(built: dict[str, BuiltModel]) -> Iterator[None]:
    """Refuse what was measured inside the block where `make models` came in between.

    Raises:
        SetupError: saying so, in place of answers that differ because of it.
    """
    changed = SetupError("the models were built anew while they were compared: run it again")
    try:
        yield
    except AnswersDiffer as error:
        if built_models() != built:
            raise changed from error
        raise
    if built_models() != built:
        raise changed


def compared(arguments: argparse.Namespace) -> str:
    """Compare; return the report."""
    built = built_models()
    peers, left_out = usable(arguments.peers, arguments.install)
    if not peers:
        raise PeerFailed("; ".join(f"{peer}: {reason}" for peer, reason in left_out.items()))
    plan = Plan(
        photos(),
        sorted(set(arguments.clients)),
        arguments.searches,
        arguments.rounds,
        arguments.seed,
        arguments.quiet_s,
        arguments.lock,
        arguments.warm_up,
    )
    with tempfile.TemporaryDirectory() as temporary:
        index_dir = Path(temporary) / "index"
        index_for_built_embedder(arguments.items, index_dir)
        reference, cores = Lookalike(index_dir), available_cores()
        shares = [(workers, max(1, cores // workers)) for workers in sorted(set(arguments.workers))]
        systems: list[System] = [Peer(peer, *share, index_dir) for peer in peers for share in shares]
        if arguments.also_lookalike:
            systems.insert(0, Lookalike(index_dir, dict(arguments.also_lookalike)))
        with models_unchanged(built):
            results = compare(reference, systems, plan)
    results.left_out = left_out | results.left_out
    models = ", ".join(f"{name} {model.fingerprint}" for name, model in built.items())
    return f"{heading(plan, peers, arguments.items)}\n\nModels: {models}.\n\n{format_report(results, reference.name)}"


def heading(plan: Plan, peers: Sequence[str], items: int) -> str:
    """Return what was measured with what, in one paragraph."""
    stacks = ", ".join(
        f"{package} {pinned_version(peer, package)}" for peer in peers for package in STACKS[peer].packages
    )
    return (
        f"{datetime.date.today()}, {this_hardware()}, Python {platform.python_version()}, "
        f"ONNX Runtime {version('onnxruntime')}, torchserve {version('torchserve')}, {stacks}. "
        f"{plan.rounds} rounds, {plan.searches} searches of 1 MP photos at each number of clients in each, "
        f"after {plan.warm_up} to warm up; {items:,} items; seed {plan.seed}."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    arguments = arguments_in(argv)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the running server is stopped
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    adopt_orphans()

    def run() -> int:
        report = compared(arguments)
        print(report)
        if arguments.output:
            arguments.output.write_text(report)
        return 0

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
