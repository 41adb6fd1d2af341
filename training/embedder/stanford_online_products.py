"""Stanford Online Products: its lists, read with every wrong line named, and its protocol.

The tree as it is downloaded: `Ebay_train.txt` and `Ebay_test.txt` (image_id class_id super_class_id path) beside the
pictures' folders; 11,318 classes for training and 11,316 others for the test ("Deep Metric Learning via Lifted
Structured Feature Embedding", https://arxiv.org/abs/1511.06452).

    python -m training.embedder.stanford_online_products --folder Stanford_Online_Products --model var/models/embedder
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lookalike.config import ModelSettings
from lookalike.errors import LookalikeError, SetupError
from training.embedder.pictures import Picture

RECALLS = (1, 10, 100, 1000)
_HEADER = ["image_id", "class_id", "super_class_id", "path"]
_ROWS_AT_ONCE = 512  # bounds the similarity matrix that is in memory: 512 x 60,502 float32 is 124 MB


class ProtocolScores(NamedTuple):
    """The figures of the protocol, as shares of the queries that have another picture of their class."""

    queries: int
    recall_at: dict[int, float]
    mean_average_precision: float
    mean_average_precision_at_r: float


def read_products(folder: Path, split: Literal["train", "test"], name: str = "sop") -> list[Picture]:
    """Return the pictures of `Ebay_<split>.txt` in its order.

    Raises:
        SetupError: for a missing list, or a line without four fields, with a number that is none, or whose
            picture is missing, naming file and line.
    """
    path = folder / f"Ebay_{split}.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SetupError(f"{path}: cannot be read ({error.strerror})") from error
    if not lines or lines[0].split() != _HEADER:
        raise SetupError(f"{path}:1: the header is not {' '.join(_HEADER)!r}")
    pictures = [_picture(folder, line, f"{path}:{number}", name) for number, line in enumerate(lines[1:], 2)]
    if not pictures:
        raise SetupError(f"{path}: lists no pictures")
    return pictures


def _picture(folder: Path, line: str, origin: str, name: str) -> Picture:
    fields = line.split()
    if len(fields) != len(_HEADER):
        raise SetupError(f"{origin}: {len(fields)} fields, not {len(_HEADER)}: {line!r}")
    if not all(field.isdigit() for field in fields[:3]):
        raise SetupError(f"{origin}: image, class and super class are whole numbers: {line!r}")
    if not (folder / fields[3]).is_file():
        raise SetupError(f"{origin}: there is no {folder / fields[3]}")
    return Picture(folder / fields[3], name, fields[1], origin)


def protocol_scores(embeddings: NDArray[np.float32], classes: NDArray[np.generic]) -> ProtocolScores:
    """Return the figures for `embeddings` `(n, dim)`, L2-normalised, of pictures of `classes` `(n,)`.

    Each picture in turn is the query and all others are the items; the exact search is done in blocks, so that the
    whole set never needs its `(n, n)` similarities at once.
    """
    hits = np.zeros(len(RECALLS))
    precision_sums, queries = np.zeros(2), 0
    for start in range(0, len(embeddings), _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(embeddings)))
        similarity = embeddings[rows] @ embeddings.T
        similarity[np.arange(len(rows)), rows] = -np.inf
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :-1]
        relevant = classes[order] == classes[rows, None]
        answerable = relevant[relevant.any(axis=1)]
        queries += len(answerable)
        hits += [answerable[:, :k].any(axis=1).sum() for k in RECALLS]
        precision_sums += _average_precisions(answerable)
    if not queries:
        raise SetupError("no picture has another one of its class: there is nothing to be found")
    recalls = dict(zip(RECALLS, (hits / queries).tolist(), strict=True))
    return ProtocolScores(queries, recalls, *(precision_sums / queries).tolist())


def _average_precisions(relevant: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the sums over queries of average precision over the whole ranking, and of that at R."""
    total = relevant.sum(axis=1, keepdims=True)
    ranks = np.arange(1, relevant.shape[1] + 1)
    precision = np.cumsum(relevant, axis=1) / ranks * relevant
    whole, at_r = precision.sum(axis=1), (precision * (ranks <= total)).sum(axis=1)
    return float((whole / total[:, 0]).sum()), float((at_r / total[:, 0]).sum())


def format_scores(scores: ProtocolScores) -> str:
    """Return the figures in percent, as a Markdown table."""
    names = [f"R@{k}" for k in RECALLS] + ["MAP", "mAP@R"]
    values = [*scores.recall_at.values(), scores.mean_average_precision, scores.mean_average_precision_at_r]
    head = "| queries | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1)
    return f"{head}\n| {scores.queries} | " + " | ".join(f"{100 * value:.2f}" for value in values) + " |"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    # Reading and scoring needs none of what loads a network.
    from training.embedder.session import load_embedder
    from training.evaluate_embedder import embed_files

    parser = argparse.ArgumentParser(description="Measure a built embedder by the Stanford Online Products protocol.")
    parser.add_argument("--folder", type=Path, required=True, help="the folder that holds Ebay_test.txt")
    parser.add_argument("--model", type=Path, default=Path("var/models/embedder"))
    options = parser.parse_args(argv)
    try:
        pictures = read_products(options.folder, "test")
        embedder = load_embedder(options.model, ModelSettings.load())
        embeddings = embed_files(embedder, embedder.preprocess, [picture.path for picture in pictures])
        print(format_scores(protocol_scores(embeddings, np.array([picture.class_id for picture in pictures]))))
    except LookalikeError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
