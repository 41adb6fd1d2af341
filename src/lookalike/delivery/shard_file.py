"""The file of one shard: its items with their rows and embeddings, as one Arrow file that is read by memory map."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lookalike.errors import StoreDamaged
from lookalike.index.items import ItemRecord
from lookalike.index.store import KnownEmbeddings

_BLOCK_ROWS = 2048


class Block(NamedTuple):
    """Some items of a shard: their rows in the catalogue, the items, and their embeddings `(n, dim)` float32."""

    rows: list[int]
    records: list[ItemRecord]
    embeddings: NDArray[np.float32]


def write_shard(path: Path, rows: Sequence[int], records: Sequence[ItemRecord], known: KnownEmbeddings) -> None:
    """Write the items `records` of the catalogue's `rows` with embeddings from `known`."""
    schema = _schema(known.dim)
    with path.open("wb") as file, pa.ipc.new_file(file, schema) as writer:
        for start in range(0, len(records), _BLOCK_ROWS):
            part = records[start : start + _BLOCK_ROWS]
            embeddings = known.gather([record.content_sha256 for record in part])
            writer.write_batch(_batch(rows[start : start + _BLOCK_ROWS], part, embeddings, schema))


def read_shard(path: Path, dim: int) -> Iterator[Block]:
    """Yield a shard block by block; the embeddings stay on disk until they are used.

    Raises:
        StoreDamaged: it is no shard of embeddings of `dim` numbers.
    """
    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        if file.schema != _schema(dim):
            raise StoreDamaged(f"{path.name} is no shard of embeddings of {dim} numbers")
        for number in range(file.num_record_batches):
            yield _block(file.get_batch(number), dim)
    except (pa.ArrowException, OSError) as error:
        raise StoreDamaged(f"{path.name} cannot be read: {error}") from error


def _schema(dim: int) -> Any:
    text = pa.large_string()
    fields = [("row", pa.int64()), ("item_id", text), ("path", text), ("title", text), ("url", text)]
    fields += [("attributes", text), ("content_sha256", pa.binary(32)), ("embedding", pa.list_(pa.float32(), dim))]
    return pa.schema(fields)


def _batch(rows: Sequence[int], records: Sequence[ItemRecord], embeddings: NDArray[np.float32], schema: Any) -> Any:
    columns = {name: [getattr(record, name) for record in records] for name in ("item_id", "path", "title", "url")}
    attributes = [json.dumps(record.attributes) for record in records]
    hashes = [record.content_sha256 for record in records]
    flat = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
    whole = {"row": rows, **columns, "attributes": attributes, "content_sha256": hashes, "embedding": flat}
    arrays = [
        value if isinstance(value, pa.Array) else pa.array(value, schema.field(name).type)
        for name, value in whole.items()
    ]
    return pa.record_batch(arrays, schema=schema)


def _block(batch: Any, dim: int) -> Block:
    columns = batch.drop_columns(["embedding"]).to_pylist()
    records = [ItemRecord.of_row(row, json.loads(row["attributes"])) for row in columns]
    embeddings = batch["embedding"].flatten().to_numpy().reshape(-1, dim)
    return Block([item["row"] for item in columns], records, embeddings)
