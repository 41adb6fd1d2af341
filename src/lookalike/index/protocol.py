"""What every index offers to the search pipeline, whichever engine stands behind it."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import LookalikeError
from lookalike.index.manifest import Manifest
from lookalike.schemas import Filters, Hit, IndexInfo


class VectorIndex(Protocol):
    """A searchable, immutable version of the catalogue."""

    @property
    def manifest(self) -> Manifest:
        """What the index was built from: embedder fingerprint, dim, metric, count, files with their sha256."""

    @property
    def info(self) -> IndexInfo:
        """Version, count and kind, as a response reports them."""

    def search(
        self,
        embeddings: NDArray[np.float32],
        top_k: int,
        filters: Filters | None = None,
        min_similarity: float | None = None,
    ) -> list[list[Hit]]:
        """Return for each row of `embeddings` `(n, dim)` at most `top_k` hits, the most similar first.

        An item qualifies when for every attribute in `filters` its value is one of those listed; `top_k` hits come
        back whenever that many items qualify.

        Raises:
            InvalidOption: for an attribute that the catalogue does not have.
            IndexMismatch: for embeddings of another dimension.
        """

    def embeddings_of(self, item_ids: Sequence[str]) -> NDArray[np.float32]:
        """Return the embeddings `(len(item_ids), dim)` float32, L2-normalised, of these items, in this order.

        Raises:
            InvalidOption: naming the items that the catalogue does not have.
        """


class LiveVectorIndex(Protocol):
    """The index of a running server: what was published last, and that of the embedder before while both serve."""

    @property
    def problem(self) -> LookalikeError | None:
        """What is wrong with what was published last; None when it answers, or waits beside one that does."""

    def current(self) -> VectorIndex:
        """Return the version in use; raises a VectorIndexError where there is none."""

    def of(self, fingerprint: str | None) -> VectorIndex:
        """Return the version of this embedder where one is open, else what `current` does; the caller compares."""

    def open_versions(self) -> dict[str, str]:
        """Return the versions that can answer, by their embedders' fingerprints."""

    def close(self) -> None:
        """Stop following what is published."""
