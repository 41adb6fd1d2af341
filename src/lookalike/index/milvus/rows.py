"""An item as a row of a Milvus collection, and filters as Milvus's expressions."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import InvalidOption
from lookalike.index.items import ItemRecord
from lookalike.index.queries import check_filters
from lookalike.schemas import Filters, Hit

if TYPE_CHECKING:
    from pymilvus import CollectionSchema

MAX_TEXT_BYTES = 65_535  # of a string field
MAX_JSON_BYTES = 65_536
MAX_TERMS = 4096
ITEM_ID, EMBEDDING, POSITION, CONTENT, DETAILS, ATTRIBUTES, TERMS = FIELDS = (
    "item_id",
    "embedding",
    "position",
    "content_sha256",
    "details",
    "attributes",
    "terms",
)
SHOWN = [DETAILS, ATTRIBUTES]  # what a hit carries
RECORD = [ITEM_ID, POSITION, CONTENT, DETAILS, ATTRIBUTES]
_DETAILS = ("title", "url", "path")
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def collection_schema(dim: int) -> "CollectionSchema":
    """Return the typed fields of a collection of embeddings of `dim` dimensions."""
    from pymilvus import DataType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(ITEM_ID, DataType.VARCHAR, is_primary=True, max_length=MAX_TEXT_BYTES)
    schema.add_field(EMBEDDING, DataType.FLOAT_VECTOR, dim=dim)
    schema.add_field(POSITION, DataType.INT64)
    schema.add_field(CONTENT, DataType.VARCHAR, max_length=64)
    schema.add_field(DETAILS, DataType.JSON)
    schema.add_field(ATTRIBUTES, DataType.JSON)
    schema.add_field(
        TERMS, DataType.ARRAY, element_type=DataType.VARCHAR, max_length=MAX_TEXT_BYTES, max_capacity=MAX_TERMS
    )
    return schema


def row_of(record: ItemRecord, embedding: NDArray[np.float32], position: int) -> dict[str, Any]:
    """Return the row of an item and its embedding `(dim,)` float32; items are listed in the order of `position`.

    Raises:
        InvalidOption: the item is larger than a row may be.
    """
    details = {name: value for name in _DETAILS if (value := getattr(record, name)) is not None}
    terms = [_term(name, value) for name, value in record.attributes.items()]
    _check_sizes(record, details, terms)
    return {
        ITEM_ID: record.item_id,
        EMBEDDING: embedding,
        POSITION: position,
        CONTENT: record.content_sha256.hex(),
        DETAILS: details,
        ATTRIBUTES: record.attributes,
        TERMS: terms,
    }


def record_of(row: Mapping[str, Any]) -> ItemRecord:
    """Return the item of a row."""
    details = row[DETAILS]
    return ItemRecord(
        item_id=row[ITEM_ID],
        content_sha256=bytes.fromhex(row[CONTENT]),
        path=details.get("path", ""),
        title=details.get("title"),
        url=details.get("url"),
        attributes=dict(row[ATTRIBUTES]),
    )


def hit_of(item_id: str, similarity: float, entity: Mapping[str, Any]) -> Hit:
    """Return what a search found as a hit."""
    details = entity[DETAILS]
    return Hit(
        item_id=item_id,
        similarity=min(1.0, max(-1.0, similarity)),
        title=details.get("title"),
        url=details.get("url"),
        attributes=dict(entity[ATTRIBUTES]),
    )


def expression_of(filters: Filters | None, attributes: Sequence[str]) -> str | None:
    """Return `filters` as Milvus's expression, `""` for all items; None where no item can qualify.

    Raises:
        InvalidOption: for an attribute that is not among the catalogue's `attributes`.
    """
    check_filters(filters or {}, attributes)
    if any(not values for values in (filters or {}).values()):
        return None  # Milvus does not read an empty list
    return " and ".join(
        f"array_contains_any({TERMS}, [{', '.join(quoted(_term(name, value)) for value in values)}])"
        for name, values in (filters or {}).items()
    )


def _term(name: str, value: str) -> str:
    """Return what filters look for; a name that holds `=` is told from one that ends there."""
    escaped = name.replace("\\", "\\\\").replace("=", "\\=")
    return f"{escaped}={value}"


def _check_sizes(record: ItemRecord, details: dict[str, str], terms: list[str]) -> None:
    shown = record.item_id[:80]
    if len(record.item_id.encode()) > MAX_TEXT_BYTES or any(len(term.encode()) > MAX_TEXT_BYTES for term in terms):
        raise InvalidOption(f"item {shown!r}: a text is too long for Milvus", f"{MAX_TEXT_BYTES} bytes of UTF-8")
    if len(terms) > MAX_TERMS:
        raise InvalidOption(f"item {shown!r} has {len(terms)} attributes", f"at most {MAX_TERMS} in Milvus")
    if any(len(json.dumps(part).encode()) > MAX_JSON_BYTES for part in (details, record.attributes)):
        raise InvalidOption(f"item {shown!r}: its texts are too long for Milvus", f"{MAX_JSON_BYTES} bytes of JSON")


def quoted(text: str) -> str:
    """Return `text` as a string of Milvus's expressions."""
    return f'"{text.translate(_ESCAPES)}"'


def one_of(field: str, values: Sequence[str]) -> str:
    """Return the expression that rows meet whose `field` is one of `values`."""
    return f"{field} in [{', '.join(map(quoted, values))}]"
