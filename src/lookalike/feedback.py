"""Relevance feedback: a query moved towards items that a person likes and away from those that they do not."""

import numpy as np
from numpy.typing import NDArray

# Rocchio's weights as Manning, Raghavan and Schütze (Introduction to Information Retrieval, 9.1.1) advise them: what is
# liked says more of what is sought than what is not liked.
LIKE_WEIGHT = 0.75
UNLIKE_WEIGHT = 0.15


def moved_queries(
    embeddings: NDArray[np.float32], liked: NDArray[np.float32], unliked: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the queries `(n, dim)` float32, L2-normalised, after Rocchio's rule (1971).

    `liked` and `unliked` are the embeddings `(m, dim)` of the items named, L2-normalised; m may be 0.
    """
    moved = embeddings.copy()
    if len(liked):
        moved += LIKE_WEIGHT * liked.mean(axis=0)
    if len(unliked):
        moved -= UNLIKE_WEIGHT * unliked.mean(axis=0)
    # The weights keep the sum away from zero: an embedding has length 1, what is unliked takes away 0.15 at most.
    norms = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.asarray(moved / np.maximum(norms, 1e-6), dtype=np.float32)
