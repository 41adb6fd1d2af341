"""Measures the whole chain in this process: photo, detector's crop, embedding, search in a real index.

Run:
    lookalike evaluate
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lookalike.model_store import read_built_model
from training.chain.report import SetResult, results_table, write_report
from training.chain.search import Models, build_index, load_models, search_set
from training.chain.sets import PAIRS_FILE, SETS, ChainSet, read_sets

__all__ = ["SETS", "evaluate_chain"]


def evaluate_chain(
    root: Path,
    data: Path,
    models_dir: Path,
    sets: Sequence[str],
    out: Path,
    limit: int | None,
    seed: int,
    candidates: int,
    min_score: float,
    threads: int,
) -> tuple[Path, str]:
    """Measure the chain on `sets`, at most `limit` queries of each; return the report's path and its table.

    Raises:
        SetupError: naming the model, the set or the file that is missing.
    """
    start_s = time.monotonic()
    chosen = [one.sampled(limit, seed) for one in read_sets(data, sets, root / PAIRS_FILE)]
    models = load_models(models_dir, threads)
    cache = root / "var/cache/evaluation"
    results = [_measure(one, models, cache, candidates, min_score) for one in chosen]
    about: dict[str, Any] = {
        **{name: _told(models_dir / name) for name in ("detector", "embedder")},
        "smallest detection score": min_score,
        "candidates": candidates,
        "queries of each set": "all" if limit is None else f"at most {limit}, seed {seed}",
        "seconds": round(time.monotonic() - start_s),
    }
    return write_report(results, about, out), results_table(results)


def _measure(chain_set: ChainSet, models: Models, cache: Path, candidates: int, min_score: float) -> SetResult:
    # Sets that share a catalogue share its index.
    name = "paintings" if chain_set.name == "walls" else chain_set.name
    index = build_index(chain_set.catalogue, models, cache / f"index-{name}")
    return SetResult.of(chain_set, search_set(chain_set, index, models, candidates, min_score))


def _told(model_dir: Path) -> str:
    built = read_built_model(model_dir)
    return f"{built.architecture} {built.version} ({built.fingerprint})"
