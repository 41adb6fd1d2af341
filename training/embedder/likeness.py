"""Chooses what a similarity is called: the least cosine at which a hit is "same", "very similar", "similar".

    python -m training.embedder.likeness --plot var/likeness.png

Every picture is searched in one catalogue of all sets, as a catalogue holds things of all kinds. A hit among the first
`TOP` is right when it is of the query's class: the same painting or product, or the same model of car, where a set
knows no single things. A logistic curve of "right" on the similarity (Platt 1999), fitted on held-out classes of the
training split, gives the thresholds; how often each word is right is then measured on the test split.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lookalike.config import ModelSettings
from lookalike.embedding import Embedder, embed_in_parts
from lookalike.errors import LookalikeError, SetupError
from lookalike.schemas import Likeness
from training.evaluate_embedder import RetrievalImage, data_dir, embed_files, read_retrieval_manifest

TOP = 5
RIGHT = {"same": 0.95, "very_similar": 0.75, "similar": 0.4}  # the chance at the threshold itself


class Pairs(NamedTuple):
    """Queries with their first hits, one row a pair; `weight` makes every set count the same."""

    similarity: NDArray[np.float32]
    right: NDArray[np.bool_]
    set_name: NDArray[np.str_]
    weight: NDArray[np.float64]


def first_hits(images: Sequence[RetrievalImage], embeddings: NDArray[np.float32], top: int = TOP) -> Pairs:
    """Search each query among the items of all sets; `embeddings` `(n, dim)` L2-normalised are those of `images`."""
    classes = np.array([f"{image.set_name}/{image.class_id}" for image in images])
    sets = np.array([image.set_name for image in images])
    roles = np.array([image.role for image in images])
    queries, items = np.flatnonzero(np.isin(roles, ("any", "query"))), np.flatnonzero(roles != "query")
    similarity = embeddings[queries] @ embeddings[items].T
    similarity[queries[:, None] == items] = -np.inf  # a picture is no hit of its own
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :top]
    names = sets[queries].repeat(best.shape[1])
    return Pairs(
        np.take_along_axis(similarity, best, axis=1).ravel(),
        (classes[items[best]] == classes[queries, None]).ravel(),
        names,
        np.select(
            [names == name for name in np.unique(names)], [1 / (names == name).sum() for name in np.unique(names)]
        ),
    )


def thresholds(pairs: Pairs) -> Likeness:
    """Return the similarities at which the fitted curve reaches the chances of `RIGHT`.

    Raises:
        SetupError: when similarity does not tell right hits from wrong ones.
    """
    from sklearn.linear_model import LogisticRegression

    if pairs.right.all() or not pairs.right.any():
        raise SetupError("the hits are all right or all wrong: there is nothing to calibrate on")
    # Without regularisation; the weights sum to the number of sets, so they are scaled to one a pair on average.
    weight = pairs.weight * len(pairs.right) / pairs.weight.sum()
    curve = LogisticRegression(C=1e6).fit(pairs.similarity[:, None], pairs.right, sample_weight=weight)
    slope, offset = float(curve.coef_[0, 0]), float(curve.intercept_[0])
    if slope <= 0:
        raise SetupError("hits that are more similar are less often right: the embedder does not fit the data")
    reached = {word: (float(np.log(chance / (1 - chance))) - offset) / slope for word, chance in RIGHT.items()}
    return Likeness(**{word: round(float(np.clip(value, -1, 1)), 3) for word, value in reached.items()})


def format_shares(pairs: Pairs, likeness: Likeness) -> str:
    """Return a Markdown table: how often each word is said, and how often it is right, over all sets and by set."""
    sets = sorted(set(pairs.set_name))
    lines = [f"| word | from | said of | right | {' | '.join(sets)} |", "|" + "---|" * (4 + len(sets))]
    words = [*likeness, ("(none)", -1.0)]
    above = 2.0
    for word, low in words:
        said = (pairs.similarity >= low) & (pairs.similarity < above)
        of_sets = [said & (pairs.set_name == name) for name in sets]
        shares = [pairs.weight[said].sum() / pairs.weight.sum(), *(_right(pairs, rows) for rows in [said, *of_sets])]
        figures = " | ".join("" if np.isnan(share) else f"{share:.3f}" for share in shares)
        lines.append(f"| {word.replace('_', ' ')} | {low if low > -1 else ''} | {figures} |")
        above = low
    return "\n".join(lines)


def _right(pairs: Pairs, rows: NDArray[np.bool_]) -> float:
    return float(np.average(pairs.right[rows], weights=pairs.weight[rows])) if rows.any() else float("nan")


def draw(pairs: Pairs, likeness: Likeness, path: Path) -> None:
    """Draw the share of right hits against similarity, with the thresholds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    edges = np.linspace(0, 1, 26)
    bins = np.clip(np.digitize(pairs.similarity, edges) - 1, 0, len(edges) - 2)
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    middle, seen = (edges[:-1] + edges[1:]) / 2, np.bincount(bins, minlength=len(edges) - 1) >= 10
    for name in ["all sets", *sorted(set(pairs.set_name))]:
        weight = pairs.weight * (True if name == "all sets" else pairs.set_name == name)
        total, right = (np.bincount(bins, weight * of, len(middle)) for of in (1, pairs.right))
        shown = seen & (total > 0)
        style = {"color": "black", "marker": "o"} if name == "all sets" else {"linewidth": 1, "alpha": 0.7}
        axes.plot(middle[shown], right[shown] / total[shown], label=name, **style)
    for word, value in likeness:
        axes.axvline(value, linestyle="--", color="grey")
        axes.text(value, 1.02, word.replace("_", " "), ha="center", fontsize=8)
    axes.set(xlabel="similarity of a hit", ylabel="share that is right", ylim=(0, 1.08))
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def held_out_pairs(embedder: Embedder, config: Path, data: Path) -> Pairs:
    """Return the first hits of the held-out classes that the training configuration names."""
    from torch import nn

    from training.embedder.config import load_config
    from training.embedder.data import TrainingData
    from training.embedder.validation import Validation

    shown = Validation(TrainingData(load_config(config), data), nn.Identity())
    return first_hits(shown.images, embed_in_parts(embedder, shown.pixels().numpy(), 16)[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's error is one line and exit status 1."""
    parser = argparse.ArgumentParser(description="Choose from which similarity on a hit is called same or similar.")
    parser.add_argument("--model", type=Path, default=Path("var/models/embedder"))
    parser.add_argument("--config", type=Path, default=Path("training/configs/embedder.yaml"))
    parser.add_argument("--data", type=Path, default=data_dir())
    parser.add_argument("--plot", type=Path, help="draw the curves on the test split into this file")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    try:
        embedder = Embedder.load(options.model, ModelSettings.load())
        chosen = thresholds(held_out_pairs(embedder, options.config, options.data))
        images = read_retrieval_manifest(options.data / "retrieval", "test")
        tested = first_hits(images, embed_files(embedder, embedder.preprocess, [image.path for image in images]))
        if options.plot:
            draw(tested, chosen, options.plot)
    except LookalikeError as error:
        print(error.message, file=sys.stderr)
        return 1
    print("for the embedder's entry of model_store/models.yaml:")
    print(f"    likeness: {{{', '.join(f'{word}: {value}' for word, value in chosen)}}}")
    print(f"\ntest split, the first {TOP} hits of each query:\n\n{format_shares(tested, chosen)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
