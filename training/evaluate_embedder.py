"""Measures a built embedder on the retrieval test sets: Recall@k and mAP@R, set by set.

Run:
    python -m training.evaluate_embedder --model var/models/embedder
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from lookalike.config import ModelSettings, RouterSettings
from lookalike.embedding import Embedder
from lookalike.errors import LookalikeError, SetupError
from lookalike.evaluation import mean_average_precision_at_r, ranked_relevance, recall_at_k
from lookalike.images import decode_image
from lookalike.preprocessing import Preprocess
from training.enlarged import enlarged_jpeg

_BATCH = 8
PAINTINGS = "museum-paintings"


class RetrievalImage(NamedTuple):
    """A row of the retrieval manifest."""

    path: Path
    set_name: str
    role: str  # any (query and item at once), query, gallery, iconic
    class_id: str
    vintage: str  # queries meet only the items of the same vintage


class RetrievalScores(NamedTuple):
    """The scores of one set, as shares of its queries."""

    queries: int
    items: int
    recall_at_1: float
    recall_at_10: float
    mean_average_precision_at_r: float


def data_dir() -> Path:
    """Return the folder of the evaluation data: `LOOKALIKE_DATA`, or `../shared/data`."""
    return Path(os.environ.get("LOOKALIKE_DATA", "../shared/data"))


def read_retrieval_manifest(folder: Path, split: str, sets: Sequence[str] | None = None) -> list[RetrievalImage]:
    """Return the images of `split`, of all sets or those named.

    Raises:
        SetupError: when the manifest is missing or names no such set.
    """
    manifest = folder / "manifest.csv"
    if not manifest.exists():
        raise SetupError(f"there is no {manifest}: set LOOKALIKE_DATA to the folder that holds retrieval/")
    with manifest.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    known = sorted({row["set"] for row in rows})
    if unknown := set(sets or ()) - set(known):
        raise SetupError(f"no set {', '.join(sorted(unknown))} in {manifest}", allowed=known)
    return [
        RetrievalImage(folder / row["file"], row["set"], row["role"], row["class_id"], row["vintage"])
        for row in rows
        if not sets or row["set"] in sets
    ]


def embed_files(
    embedder: Embedder, preprocess: Preprocess, paths: Sequence[Path], enlarge_px: int | None = None
) -> NDArray[np.float32]:
    """Return the embeddings `(n, dim)` of image files.

    With `enlarge_px` each is a JPEG with so many pixels along its shortest edge, decoded as the router does.
    """
    parts = []
    for start in tqdm(range(0, len(paths), _BATCH), unit="batch", disable=None):
        chunk = paths[start : start + _BATCH]
        pixels = np.stack([preprocess.fit(_read(path, enlarge_px)) for path in chunk])
        parts.append(embedder.embed(pixels).embeddings)
    return np.concatenate(parts)


def _read(path: Path, enlarge_px: int | None) -> Image.Image:
    image = Image.open(path).convert("RGB")
    if enlarge_px is None:
        return image
    router = RouterSettings()
    return decode_image(enlarged_jpeg(image, enlarge_px), router.limits, router.crop_px).pixels


def score_sets(images: Sequence[RetrievalImage], embeddings: NDArray[np.float32]) -> dict[str, RetrievalScores]:
    """Return each set's scores; `embeddings` `(n, dim)` are those of `images`."""
    scores = {}
    for set_name in sorted({image.set_name for image in images}):
        rows = np.array([row for row, image in enumerate(images) if image.set_name == set_name])
        members = [images[row] for row in rows]
        scores[set_name] = scores_of_parts(parts_of_set(members, embeddings[rows]))
    return scores


class SearchPart(NamedTuple):
    """Queries and the items that they are searched among."""

    queries: NDArray[np.float32]  # (q, dim)
    query_classes: NDArray[np.str_]
    items: NDArray[np.float32]  # (n, dim)
    item_classes: NDArray[np.str_]
    leave_one_out: bool  # queries and items are the same images


def parts_of_set(images: Sequence[RetrievalImage], embeddings: NDArray[np.float32]) -> list[SearchPart]:
    """Return the searches that one set's images make: one a vintage, each with its own catalogue."""
    classes = np.array([image.class_id for image in images])
    roles = np.array([image.role for image in images])
    vintages = np.array([image.vintage for image in images])
    parts = []
    for vintage in sorted(set(vintages)):
        is_query = (vintages == vintage) & np.isin(roles, ("any", "query"))
        is_item = (vintages == vintage) & np.isin(roles, ("any", "gallery", "iconic"))
        one_out = bool((roles[is_query] == "any").all())
        parts.append(
            SearchPart(embeddings[is_query], classes[is_query], embeddings[is_item], classes[is_item], one_out)
        )
    return parts


def scores_of_parts(parts: Sequence[SearchPart]) -> RetrievalScores:
    """Return the scores of a set's searches, each weighted by its queries: the catalogues differ in size."""
    relevant = [ranked_relevance(*part) for part in parts]
    weights = [len(part) for part in relevant]
    return RetrievalScores(
        queries=sum(weights),
        items=sum(len(part.items) for part in parts),
        recall_at_1=float(np.average([recall_at_k(part, 1) for part in relevant], weights=weights)),
        recall_at_10=float(np.average([recall_at_k(part, 10) for part in relevant], weights=weights)),
        mean_average_precision_at_r=float(
            np.average([mean_average_precision_at_r(part) for part in relevant], weights=weights)
        ),
    )


def with_distractors(
    images: Sequence[RetrievalImage], embeddings: NDArray[np.float32], set_name: str, count: int, seed: int = 0
) -> RetrievalScores:
    """Return a set's scores when `count` pictures of the other sets lie among the items of each search.

    Raises:
        SetupError: when the other sets have fewer.
    """
    own = [row for row, image in enumerate(images) if image.set_name == set_name]
    others = [row for row, image in enumerate(images) if image.set_name != set_name]
    if len(others) < count:
        raise SetupError(f"{count} distractors are asked for; the other sets have {len(others)} pictures")
    chosen = np.random.default_rng(seed).choice(others, count, replace=False)
    parts = parts_of_set([images[row] for row in own], embeddings[own])
    return scores_of_parts(
        [
            part._replace(
                items=np.concatenate([part.items, embeddings[chosen]]),
                # No class of a set has an empty name: a distractor is never what is looked for.
                item_classes=np.concatenate([part.item_classes, np.full(count, "")]),
            )
            for part in parts
        ]
    )


def format_scores(scores: dict[str, RetrievalScores]) -> str:
    """Return the scores as a Markdown table."""
    lines = ["| set | queries | items | R@1 | R@10 | mAP@R |", "|---|---|---|---|---|---|"]
    for name, score in scores.items():
        figures = " | ".join(f"{figure:.3f}" for figure in score[2:])
        lines.append(f"| {name} | {score.queries} | {score.items} | {figures} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description="Measure an embedder on the retrieval test sets.")
    parser.add_argument(
        "--model", type=Path, default=Path("var/models/embedder"), help="built model, or a run's folder"
    )
    parser.add_argument("--data", type=Path, default=data_dir(), help="the folder that holds retrieval/")
    parser.add_argument("--sets", nargs="+", help="only these sets")
    parser.add_argument("--resize", choices=["squash", "pad"], help="another geometry than the model's own")
    parser.add_argument(
        "--distractors", type=int, default=0, help="also: museum-paintings among so many other pictures"
    )
    parser.add_argument("--enlarge-px", type=int, help="first make each picture a JPEG with this shortest edge")
    parser.add_argument("--json", type=Path, help="write the scores to this file, too")
    options = parser.parse_args(argv)
    # Only a training run's folder needs torch; what imports this module for its figures needs neither.
    from training.embedder.session import load_embedder

    try:
        embedder = load_embedder(options.model, ModelSettings.load())
        images = read_retrieval_manifest(options.data / "retrieval", "test", options.sets)
    except LookalikeError as error:
        print(error.message, file=sys.stderr)
        return 1
    preprocess = embedder.preprocess
    if options.resize:
        preprocess = preprocess.model_copy(update={"resize": options.resize})
    embeddings = embed_files(embedder, preprocess, [image.path for image in images], options.enlarge_px)
    scores = score_sets(images, embeddings)
    if options.distractors:
        name = f"{PAINTINGS} + {options.distractors}"
        scores[name] = with_distractors(images, embeddings, PAINTINGS, options.distractors)
    print(format_scores(scores))
    if options.json:
        options.json.write_text(json.dumps({name: score._asdict() for name, score in scores.items()}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
