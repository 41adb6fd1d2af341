"""The metrics of retrieval, detection and approximate search, as they are reported everywhere in the project."""

import numpy as np
from numpy.typing import NDArray

from lookalike.boxes import box_iou as box_iou

_ROWS_AT_ONCE = 1024  # bounds the similarity matrix that is in memory
MISS_BELOW_IOU = 0.1


def ranked_relevance(
    queries: NDArray[np.float32],
    query_classes: NDArray[np.generic],
    items: NDArray[np.float32],
    item_classes: NDArray[np.generic],
    leave_one_out: bool = False,
) -> NDArray[np.bool_]:
    """Return `(q, n)` bool: whether the j-th most similar item to query i is of the query's class.

    `queries` `(q, dim)` and `items` `(n, dim)` are L2-normalised. With `leave_one_out` queries and items are the same
    images, and each query's own image is left out: the result is `(q, n - 1)`.
    """
    parts = []
    for start in range(0, len(queries), _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(queries)))
        similarity = queries[rows] @ items.T
        if leave_one_out:
            similarity[np.arange(len(rows)), rows] = -np.inf
        order = np.argsort(-similarity, axis=1, kind="stable")
        parts.append(item_classes[order] == query_classes[rows, None])
    relevant: NDArray[np.bool_] = np.concatenate(parts)
    return relevant[:, :-1] if leave_one_out else relevant


def recall_at_k(relevant: NDArray[np.bool_], k: int) -> float:
    """Return the share of queries with at least one relevant item among the first `k` of `relevant` `(q, n)`."""
    return float(relevant[:, :k].any(axis=1).mean())


def mean_average_precision_at_r(relevant: NDArray[np.bool_]) -> float:
    """Return mAP@R of `relevant` `(q, n)`, which ranks the whole catalogue; a query without relevant items is left out.

    With R relevant items: the sum over the first R ranks that are relevant of the precision there, divided by R
    ("A Metric Learning Reality Check", https://arxiv.org/abs/2003.08505).
    """
    total = relevant.sum(axis=1)
    answerable, total = relevant[total > 0], total[total > 0]
    if not len(total):
        return 0.0
    ranks = np.arange(1, relevant.shape[1] + 1)
    precision = np.cumsum(answerable, axis=1) / ranks
    counted = answerable & (ranks <= total[:, None])
    return float(((precision * counted).sum(axis=1) / total).mean())


def share_of_misses(ious: NDArray[np.floating], below: float = MISS_BELOW_IOU) -> float:
    """Return the share of `ious` `(n,)`, each of a found box with the true one, that are smaller than `below`."""
    return float((ious < below).mean())


def ann_recall_at_k(found: NDArray[np.integer], exact: NDArray[np.integer], k: int) -> float:
    """Return the share of the exact search's first `k` items (`exact` `(q, >=k)`) that an approximate search found.

    A row number of -1 pads a short list and is no item.
    """
    shares = []
    for found_row, exact_row in zip(found[:, :k], exact[:, :k], strict=True):
        wanted = set(exact_row.tolist()) - {-1}
        if wanted:
            shares.append(len(wanted & set(found_row.tolist())) / len(wanted))
    return float(np.mean(shares)) if shares else 1.0
