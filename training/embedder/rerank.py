"""Re-ranking without training: expanded queries, an expanded catalogue, and both, measured beside the plain search.

python -m training.embedder.rerank --model var/models/embedder
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.config import ModelSettings
from lookalike.errors import LookalikeError
from training.evaluate_embedder import (
    RetrievalImage,
    RetrievalScores,
    data_dir,
    embed_files,
    parts_of_set,
    read_retrieval_manifest,
    scores_of_parts,
)

Floats = NDArray[np.float32]

NEIGHBOURS = 3
POWER = 3.0


def expanded(embeddings: Floats, items: Floats, neighbours: int, power: float, itself: bool) -> Floats:
    """Return `embeddings` `(n, dim)` each plus its nearest `items` `(m, dim)`, weighted by similarity to a power.

    For queries this is alpha query expansion ("Fine-tuning CNN Image Retrieval with No Human Annotation",
    https://arxiv.org/abs/1711.02512), for items database augmentation. With `itself` both are the same images, and
    each image's own row is left out of its neighbours. Everything is L2-normalised.
    """
    similarity = embeddings @ items.T
    if itself:
        np.fill_diagonal(similarity, -np.inf)
    count = min(neighbours, len(items) - itself)
    if count < 1:
        return embeddings
    nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    weights = np.clip(np.take_along_axis(similarity, nearest, axis=1), 0, None) ** power
    summed = embeddings + (items[nearest] * weights[..., None]).sum(axis=1)
    return (summed / np.linalg.norm(summed, axis=1, keepdims=True)).astype(np.float32)


def rerank_rows(
    images: Sequence[RetrievalImage], embeddings: Floats, neighbours: int = NEIGHBOURS, power: float = POWER
) -> dict[str, dict[str, RetrievalScores]]:
    """Return the scores by set and variant: plain, query expansion, database augmentation, both."""
    rows: dict[str, dict[str, RetrievalScores]] = {}
    for name in sorted({image.set_name for image in images}):
        positions = [row for row, image in enumerate(images) if image.set_name == name]
        parts = parts_of_set([images[row] for row in positions], embeddings[positions])
        rows[name] = {}
        for variant, (of_queries, of_items) in _VARIANTS.items():
            changed = []
            for part in parts:
                one = part.leave_one_out
                items = expanded(part.items, part.items, neighbours, power, True) if of_items else part.items
                queries = expanded(part.queries, items, neighbours, power, one) if of_queries else part.queries
                changed.append(part._replace(queries=queries, items=items))
            rows[name][variant] = scores_of_parts(changed)
    return rows


_VARIANTS = {
    "plain": (False, False),
    "query expansion": (True, False),
    "database augmentation": (False, True),
    "both": (True, True),
}


def format_rows(rows: dict[str, dict[str, RetrievalScores]]) -> str:
    """Return R@1 / mAP@R by set and variant as a Markdown table."""
    lines = ["| set | " + " | ".join(_VARIANTS) + " |", "|---" * (len(_VARIANTS) + 1) + "|"]
    for name, scores in rows.items():
        cells = [f"{score.recall_at_1:.3f} / {score.mean_average_precision_at_r:.3f}" for score in scores.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    # Only this command needs torch: the arithmetic above does not.
    from training.embedder.session import load_embedder

    parser = argparse.ArgumentParser(description="Compare re-ranking variants on the retrieval test sets.")
    parser.add_argument(
        "--model", type=Path, default=Path("var/models/embedder"), help="built model, or a run's folder"
    )
    parser.add_argument("--data", type=Path, default=data_dir(), help="the folder that holds retrieval/")
    parser.add_argument("--neighbours", type=int, default=NEIGHBOURS)
    parser.add_argument("--power", type=float, default=POWER)
    options = parser.parse_args(argv)
    try:
        embedder = load_embedder(options.model, ModelSettings.load())
        images = read_retrieval_manifest(options.data / "retrieval", "test")
        embeddings = embed_files(embedder, embedder.preprocess, [image.path for image in images])
    except LookalikeError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(format_rows(rerank_rows(images, embeddings, options.neighbours, options.power)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
