"""Compares a random, the pretrained and the fine-tuned embedder on the retrieval test sets, as one table.

python -m training.embedder.report --config training/configs/embedder.yaml --run var/runs/embedder
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from lookalike.config import ModelSettings
from lookalike.embedding import Embedder
from lookalike.errors import LookalikeError
from training.embedder.config import EmbedderConfig, load_config
from training.embedder.session import embedder_of, load_embedder
from training.embedder.store import create_network
from training.evaluate_embedder import (
    PAINTINGS,
    RetrievalScores,
    data_dir,
    embed_files,
    read_retrieval_manifest,
    score_sets,
    with_distractors,
)

Rows = dict[str, dict[str, RetrievalScores]]


def random_embedder(config: EmbedderConfig, downloads_dir: Path, settings: ModelSettings) -> Embedder:
    """Return the configuration's network with random weights throughout."""
    torch.manual_seed(config.seed)
    network = create_network(config.network.model_copy(update={"weights": "random"}), downloads_dir)
    return embedder_of(network, config.preprocess, settings)


def format_rows(rows: Rows) -> str:
    """Return R@1 and mAP@R by network and set, in percent, as a Markdown table."""
    names = list(next(iter(rows.values())))
    head = "| network | " + " | ".join(f"{name} R@1 / mAP@R" for name in names) + " |"
    lines = [head, "|---" * (len(names) + 1) + "|"]
    for title, scores in rows.items():
        cells = [f"{100 * scores[name].recall_at_1:.1f} / {100 * scores[name][-1]:.1f}" for name in names]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measured(embedder: Embedder, data: Path, distractors: int) -> dict[str, RetrievalScores]:
    """Return the scores on the test sets, and of the paintings among `distractors` other pictures."""
    images = read_retrieval_manifest(data / "retrieval", "test")
    embeddings = embed_files(embedder, embedder.preprocess, [image.path for image in images])
    scores = score_sets(images, embeddings)
    if distractors:
        scores[f"{PAINTINGS} + {distractors}"] = with_distractors(images, embeddings, PAINTINGS, distractors)
    return scores


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description="Compare random, pretrained and fine-tuned embedders.")
    parser.add_argument("--config", type=Path, default=Path("training/configs/embedder.yaml"))
    parser.add_argument("--pretrained", type=Path, default=Path("var/models/embedder"), help="a built model or a run")
    parser.add_argument("--run", type=Path, nargs="+", default=[Path("var/runs/embedder")], help="training runs")
    parser.add_argument("--data", type=Path, default=data_dir())
    parser.add_argument("--downloads", type=Path, default=Path("var/downloads"))
    parser.add_argument("--distractors", type=int, default=3000)
    parser.add_argument("--json", type=Path, help="write the scores to this file, too")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    settings = ModelSettings.load()
    try:
        embedders = {"random": random_embedder(load_config(options.config), options.downloads, settings)}
        embedders["pretrained"] = load_embedder(options.pretrained, settings)
        embedders |= {f"fine-tuned ({run.name})": load_embedder(run, settings) for run in options.run}
        rows = {title: measured(embedder, options.data, options.distractors) for title, embedder in embedders.items()}
    except LookalikeError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(format_rows(rows))
    if options.json:
        plain = {title: {name: score._asdict() for name, score in scores.items()} for title, scores in rows.items()}
        options.json.write_text(json.dumps(plain, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
