"""What every engine checks before it searches, so that wrong questions get the same answer from all of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import IndexMismatch, InvalidOption, few
from lookalike.index.manifest import Manifest
from lookalike.schemas import Filters


def checked_embeddings(embeddings: NDArray[np.float32], manifest: Manifest) -> NDArray[np.float32]:
    """Return embeddings `(n, dim)` as contiguous float32; raises IndexMismatch for another shape."""
    if embeddings.ndim != 2 or embeddings.shape[1] != manifest.dim:
        raise IndexMismatch(
            f"embeddings have the shape {embeddings.shape}; index version {manifest.version} takes (n, {manifest.dim})"
        )
    return np.ascontiguousarray(embeddings, dtype=np.float32)


def check_filters(filters: Filters, attributes: Sequence[str]) -> None:
    """Raise InvalidOption for an attribute that is not among the catalogue's `attributes`."""
    if unknown := sorted(filters.keys() - set(attributes)):
        raise InvalidOption(f"filters name no attribute of the catalogue: {few(unknown)}", list(attributes))


def check_items(missing: Sequence[str]) -> None:
    """Raise InvalidOption when there are items that the catalogue does not have."""
    if missing:
        raise InvalidOption(f"the catalogue has no item {few(map(repr, missing))}", "item_ids of hits")
