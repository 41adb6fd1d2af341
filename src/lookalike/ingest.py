"""How images become embeddings: read, hashed and prepared in threads, embedded in batches, kept in chunks."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field

from lookalike.catalogue import ImageFile, Item, printable
from lookalike.config import ImageLimits
from lookalike.errors import RequestError, SetupError
from lookalike.images import decode_image
from lookalike.index.store import EmbeddingStore
from lookalike.progress import Advance

NOTHING_IN_IT = "the embedder finds nothing in it: its embedding is zero or not finite"
_READ_AHEAD = 2  # batches that are prepared while one is embedded


class ImageEmbedder(Protocol):
    """What an ingest needs of an embedder; `fingerprint` and `preparation` say which embeddings can be used again."""

    @property
    def name(self) -> str:
        """The model's name, for people."""

    @property
    def fingerprint(self) -> str:
        """Tells whether two embedders compute the same."""

    @property
    def dim(self) -> int:
        """The length of an embedding."""

    @property
    def preparation(self) -> str:
        """What `prepare` does to an image before it is embedded: `whole image`, or a crop and by what."""

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return a decoded RGB image as one network input `(h, w, 3)`; called from several threads.

        A crop to the subject has its place here: it sees the image in its full resolution.
        """

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the embeddings `(n, dim)` of prepared images `(n, h, w, 3)`; called from one thread."""


Duplicates = Literal["skip", "keep"]


class IngestOptions(BaseModel, extra="forbid", frozen=True):
    """How an ingest goes about its work."""

    duplicates: Duplicates = "skip"  # of an image that another item has already
    existing: Literal["replace", "keep"] = "replace"  # an item_id that the index has already
    threads: Annotated[int, Field(ge=1)] = 2
    batch_images: Annotated[int, Field(ge=1, le=64)] = 16
    limits: ImageLimits = ImageLimits()


ProblemKind = Literal["unreadable", "duplicate"]


@dataclass(frozen=True)
class Problem:
    """An item that was not taken, or not as given, and why."""

    kind: ProblemKind
    item_id: str
    path: str
    reason: str


class Embedded(NamedTuple):
    """What came of the items: the sha256 (32 bytes) by item_id of those that have an embedding, and the others."""

    content_sha256: dict[str, bytes]
    problems: list[Problem]
    new_embeddings: int


class Content(NamedTuple):
    """An item's encoded image, as it was read; `key` is its sha256 (32 bytes)."""

    item: Item
    key: bytes
    data: bytes


class _Prepared(NamedTuple):
    item: Item
    key: bytes
    pixels: NDArray[np.uint8] | None  # None: its embedding is known already


class Ingest:
    """Embeds the images of a catalogue; each finished chunk survives whatever happens afterwards."""

    def __init__(
        self, embedder: ImageEmbedder, store: EmbeddingStore, options: IngestOptions, chunk_items: int
    ) -> None:
        self._embedder, self._store, self._options = embedder, store, options
        self._chunk_items = chunk_items
        self._unsaved: dict[bytes, NDArray[np.float32]] = {}
        self._failed: set[bytes] = set()
        self._new = 0

    def run(self, items: Sequence[Item], advance: Advance) -> Embedded:
        """Embed what is not known yet; unreadable images are reported and do not stop the run.

        Raises:
            SetupError: the embedder returns something else than `(n, dim)`, or no space is left.
        """
        keys: dict[str, bytes] = {}
        problems: list[Problem] = []
        try:
            self._embed_all(items, keys, problems, advance)
        finally:
            self._save()  # also when the run is broken off: what was embedded is paid for
        broken = [item for item in items if keys.get(item.item_id) in self._failed]
        for item in broken:
            del keys[item.item_id]
            problems.append(unreadable(item, NOTHING_IN_IT))
        return Embedded(keys, problems, self._new)

    def _embed_all(
        self, items: Sequence[Item], keys: dict[str, bytes], problems: list[Problem], advance: Advance
    ) -> None:
        batch: dict[bytes, NDArray[np.uint8]] = {}
        for prepared in self._prepared_ahead(items):
            if isinstance(prepared, Problem):
                problems.append(prepared)
                advance(1)
                continue
            keys[prepared.item.item_id] = prepared.key
            if prepared.pixels is None or self._is_known(prepared.key) or prepared.key in batch:
                advance(1)
                continue
            batch[prepared.key] = prepared.pixels
            if len(batch) == self._options.batch_images:
                self._embed(batch)
                advance(len(batch))
                batch = {}
        if batch:
            self._embed(batch)
            advance(len(batch))

    def _prepared_ahead(self, items: Sequence[Item]) -> Iterator[_Prepared | Problem]:
        """Yield the items in their order while threads prepare the next ones."""
        ahead = self._options.batch_images * _READ_AHEAD
        with ThreadPoolExecutor(self._options.threads, thread_name_prefix="prepare") as executor:
            waiting: deque[Future[_Prepared | Problem]] = deque()
            try:
                for item in items:
                    waiting.append(executor.submit(self._prepare, item))
                    if len(waiting) > ahead:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                executor.shutdown(wait=True, cancel_futures=True)

    def _prepare(self, item: Item) -> _Prepared | Problem:
        content = read_content(item, self._options.limits)
        if isinstance(content, Problem):
            return content
        if self._is_known(content.key):
            return _Prepared(item, content.key, None)
        pixels = prepare_content(content, self._embedder.prepare, self._options.limits)
        return pixels if isinstance(pixels, Problem) else _Prepared(item, content.key, pixels)

    def _is_known(self, key: bytes) -> bool:
        return key in self._store.known or key in self._unsaved or key in self._failed

    def _embed(self, batch: dict[bytes, NDArray[np.uint8]]) -> None:
        embeddings, usable = embed_checked(self._embedder, np.stack(list(batch.values())))
        for key, embedding, is_usable in zip(batch, embeddings, usable, strict=True):
            if is_usable:
                self._unsaved[key] = embedding
            else:
                self._failed.add(key)
        if len(self._unsaved) >= self._chunk_items:
            self._save()

    def _save(self) -> None:
        if self._unsaved:
            self._store.save(list(self._unsaved), np.stack(list(self._unsaved.values())))
            self._new += len(self._unsaved)
            self._unsaved = {}


def read_content(item: Item, limits: ImageLimits) -> Content | Problem:
    """Read and hash an item's encoded image; a store that does not answer raises, as that is no fault of the image."""
    try:
        data = _read(item.path, limits)
    except OSError as error:
        return unreadable(item, _reason(error))
    return Content(item, hashlib.sha256(data).digest(), data)


def prepare_content(
    content: Content, prepare: Callable[[Image.Image], NDArray[np.uint8]], limits: ImageLimits
) -> NDArray[np.uint8] | Problem:
    """Decode an image and return it as one network input `(h, w, 3)`."""
    try:
        return prepare(decode_image(content.data, limits).pixels)
    except (OSError, RequestError) as error:
        return unreadable(content.item, _reason(error))


def embed_checked(embedder: ImageEmbedder, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the embeddings `(n, dim)` of prepared images, of length 1, and which of them can be used `(n,)`.

    Raises:
        SetupError: the embedder returns something else than `(n, dim)`.
    """
    embeddings = embedder.embed(pixels)
    if embeddings.shape != (len(pixels), embedder.dim):
        raise SetupError(
            f"embedder {embedder.name} returned {embeddings.shape} for {len(pixels)} images; its dim is {embedder.dim}"
        )
    norms = np.linalg.norm(embeddings, axis=1)
    usable = (norms > 0) & np.isfinite(norms)
    return (embeddings / np.where(usable, norms, 1)[:, None]).astype(np.float32), usable


def _read(path: ImageFile, limits: ImageLimits) -> bytes:
    try:
        file = path.open("rb")
    except ValueError as error:
        raise OSError(f"the path cannot name a file: {error}") from error
    with file:
        # One byte more than is allowed is enough for the refusal; the rest of a huge file is never read.
        return file.read(limits.max_bytes + 1)


def unreadable(item: Item, reason: str) -> Problem:
    """Return the problem of an item that has no embedding."""
    return Problem("unreadable", item.item_id, printable(str(item.path)), reason)


def _reason(error: OSError | RequestError) -> str:
    if isinstance(error, RequestError):
        return f"{error.code}: {error.message}"
    return (error.strerror or str(error)).lower()
