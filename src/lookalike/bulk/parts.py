"""What happens with one part: its images are read, hashed and prepared; embedded; and kept. No Ray in sight."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from lookalike.bulk.output import BulkOutput, PartReport, embeddings_schema, items_schema
from lookalike.catalogue import Item
from lookalike.config import ImageLimits
from lookalike.index.edits import record_of
from lookalike.ingest import (
    NOTHING_IN_IT,
    Content,
    ImageEmbedder,
    Problem,
    embed_checked,
    prepare_content,
    read_content,
    unreadable,
)

_AT_ONCE = 32  # images of a task whose encoded bytes are in memory

Claim = Callable[[int, Sequence[bytes]], list[bool]]
Prepare = Callable[[Image.Image], NDArray[np.uint8]]


@dataclass
class PreparedPart:
    """A part before it is embedded: the items that were read with the sha256 of their images, and what is to embed."""

    part: int
    first_row: int  # of the part in the catalogue
    read: list[tuple[int, Item, bytes]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    failed: dict[bytes, str] = field(default_factory=dict)
    pixels: dict[bytes, NDArray[np.uint8]] = field(default_factory=dict)


@dataclass
class EmbeddedPart:
    """A part that is embedded: what to keep of it; `embeddings` is `(len(keys), dim)` float32."""

    part: int
    read: list[tuple[int, Item, bytes]]
    problems: list[Problem]
    failed: dict[bytes, str]
    keys: list[bytes]
    embeddings: NDArray[np.float32]


def prepare_part(
    part: int, first_row: int, items: Sequence[Item], prepare: Prepare, claim: Claim, limits: ImageLimits, threads: int
) -> PreparedPart:
    """Read and hash the images of a part, and prepare those that no other part has claimed.

    Raises:
        StoreUnreachable: the store of the images does not answer: no fault of theirs.
    """
    made = PreparedPart(part, first_row)
    with ThreadPoolExecutor(threads, thread_name_prefix="prepare") as executor:
        for start in range(0, len(items), _AT_ONCE):
            some = items[start : start + _AT_ONCE]
            found = list(executor.map(partial(read_content, limits=limits), some))
            contents = [content for content in found if isinstance(content, Content)]
            made.problems += [problem for problem in found if isinstance(problem, Problem)]
            rows = [first_row + start + n for n, content in enumerate(found) if isinstance(content, Content)]
            made.read += [(row, one.item, one.key) for row, one in zip(rows, contents, strict=True)]
            new = _to_prepare(made, contents, claim)
            pixels = executor.map(partial(prepare_content, prepare=prepare, limits=limits), new)
            for content, prepared in zip(new, pixels, strict=True):
                if isinstance(prepared, Problem):
                    made.failed[content.key] = prepared.reason
                else:
                    made.pixels[content.key] = prepared
    return made


def _to_prepare(made: PreparedPart, contents: list[Content], claim: Claim) -> list[Content]:
    """Return one content for each image that this part has to embed and has not met yet."""
    first = {content.key: content for content in reversed(contents)}
    new = [first[key] for key in first if key not in made.pixels and key not in made.failed]
    owned = claim(made.part, [content.key for content in new]) if new else []
    return [content for content, is_mine in zip(new, owned, strict=True) if is_mine]


def embed_part(prepared: PreparedPart, embedder: ImageEmbedder, batch_images: int) -> EmbeddedPart:
    """Embed the images of a part, `batch_images` at once.

    Raises:
        SetupError: the embedder returns something else than `(n, dim)`.
    """
    keys, blocks, failed = list[bytes](), list[NDArray[np.float32]](), dict(prepared.failed)
    waiting = list(prepared.pixels)
    for start in range(0, len(waiting), batch_images):
        some = waiting[start : start + batch_images]
        embeddings, usable = embed_checked(embedder, np.stack([prepared.pixels[key] for key in some]))
        keys += [key for key, is_usable in zip(some, usable, strict=True) if is_usable]
        failed |= {key: NOTHING_IN_IT for key, is_usable in zip(some, usable, strict=True) if not is_usable}
        blocks.append(embeddings[usable])
    embeddings = np.concatenate(blocks) if blocks else np.empty((0, embedder.dim), np.float32)
    return EmbeddedPart(prepared.part, prepared.read, prepared.problems, failed, keys, embeddings)


def keep_part(embedded: EmbeddedPart, output: BulkOutput) -> PartReport:
    """Write a part into the output and return its report."""
    known_bad = embedded.failed
    broken = [unreadable(item, known_bad[key]) for _, item, key in embedded.read if key in known_bad]
    read = [(row, item, key) for row, item, key in embedded.read if key not in known_bad]
    report = PartReport(
        part=embedded.part,
        items=len(read),
        embedded=len(embedded.keys),
        problems=embedded.problems + broken,
        failed={key.hex(): reason for key, reason in known_bad.items()},
    )
    output.keep(report, _items_table(read), _embeddings_table(embedded))
    return report


def _items_table(read: Sequence[tuple[int, Item, bytes]]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for row, item, key in read:
        record = record_of(item, key)
        rows.append({"row": row, **vars(record), "attributes": list(record.attributes.items())})
    return pa.Table.from_pylist(rows, schema=items_schema())


def _embeddings_table(embedded: EmbeddedPart) -> pa.Table:
    dim = embedded.embeddings.shape[1]
    flat = pa.FixedSizeListArray.from_arrays(pa.array(embedded.embeddings.ravel()), dim)
    return pa.table([pa.array(embedded.keys, pa.binary(32)), flat], schema=embeddings_schema(dim))
