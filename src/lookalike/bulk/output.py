"""What a bulk run writes, as its store holds it: the pinned list, the parts that are finished, and what came of all.

plan.json                                what is embedded by which embedder; written when the list is whole
catalogue/list-00000.parquet             the items as the run takes them, a row group a part
items/part-0000012.parquet               the items of a part that could be read, with the sha256 of their images
embeddings/part-0000012.parquet          the embeddings of the images that this part was the first to meet
parts/part-0000012.json                  its presence says that the two are whole
problems.jsonl, summary.json             of all parts, when they are finished
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Annotated, Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lookalike.delivery.store import Store
from lookalike.errors import SetupError, StoreDamaged, StoreMissing, StoreMoved, wrong_fields
from lookalike.ingest import Problem

PLAN, SUMMARY, PROBLEMS = "plan.json", "summary.json", "problems.jsonl"
PARTS_A_FILE = 128
_READERS = 16
A = TypeVar("A")
B = TypeVar("B")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=_Strict)


class BulkPlan(_Strict):
    """What all parts of a run have in common."""

    format: Literal[1] = 1
    source: str
    levels: list[str]
    embedder: str
    fingerprint: str
    dim: Annotated[int, Field(gt=0)]
    preparation: str
    part_items: Annotated[int, Field(ge=1)]
    items: Annotated[int, Field(ge=1)]
    ignored_files: Annotated[int, Field(ge=0)]

    @property
    def parts(self) -> int:
        """How many parts there are; the last one may be smaller."""
        return -(-self.items // self.part_items)

    def differences(self, other: "BulkPlan") -> list[str]:
        """Return in which respects `other` is of another run, each by name; what a source holds is not compared."""
        found = {"items", "ignored_files"}
        mine, others = self.model_dump(exclude=found), other.model_dump(exclude=found)
        return [f"{name} is {others[name]!r} instead of {mine[name]!r}" for name in mine if mine[name] != others[name]]


class PartReport(_Strict):
    """One finished part; `failed` has the reason by the sha256 (hex) of an image that has no embedding."""

    part: Annotated[int, Field(ge=0)]
    items: Annotated[int, Field(ge=0)]
    embedded: Annotated[int, Field(ge=0)]
    problems: list[Problem]
    failed: dict[str, str]


class Summary(_Strict):
    """What came of a finished run."""

    items: int
    embeddings: int
    duplicates: int
    unreadable: int
    ignored_files: int


class BulkOutput:
    """The files of one bulk run in a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def plan(self) -> BulkPlan | None:
        """Return the plan, or None when the list is not whole yet.

        Raises:
            StoreDamaged: it is no plan of this version.
        """
        content = self.store.read_if_there(PLAN)
        return None if content is None else _parsed(BulkPlan, content, f"{self.store.url}/{PLAN}")

    def settle(self, plan: BulkPlan) -> None:
        """Write the plan, once.

        Raises:
            SetupError: another run has begun here meanwhile.
        """
        try:
            self.store.put_new(PLAN, plan.model_dump_json(indent=2).encode())
        except StoreMoved as error:
            raise SetupError(
                f"another run has begun in {self.store.url}; let it end, or take another folder"
            ) from error

    def finished(self) -> set[int]:
        """Return the parts that are finished."""
        names = self.store.names("parts")
        return {int(name[5:-5]) for name in names if name.startswith("part-") and name.endswith(".json")}

    def reports(self) -> list[PartReport]:
        """Return what the finished parts say of themselves, in their order.

        Raises:
            StoreDamaged: one cannot be read.
        """
        return list(_side_by_side(self._report, sorted(self.finished())))

    def _report(self, part: int) -> PartReport:
        name = part_file("parts", part)
        return _parsed(PartReport, self.store.read(name), f"{self.store.url}/{name}")

    def keep(self, report: PartReport, items: pa.Table, embeddings: pa.Table) -> None:
        """Write a part: its tables first, then the report that says that it is finished."""
        if report.embedded:
            self.store.put(part_file("embeddings", report.part), parquet_bytes(embeddings))
        if report.items:
            self.store.put(part_file("items", report.part), parquet_bytes(items))
        self.store.put(part_file("parts", report.part), report.model_dump_json().encode())

    def forget(self, part: int) -> None:
        """Make a part unfinished again."""
        for folder in ("parts", "items", "embeddings"):
            self.store.remove(part_file(folder, part))

    def table(self, folder: Literal["items", "embeddings"], part: int, columns: list[str] | None = None) -> pa.Table:
        """Return a table of a finished part that has one.

        Raises:
            StoreDamaged: it is missing or no Parquet file.
        """
        name = part_file(folder, part)
        try:
            return pq.read_table(BytesIO(self.store.read(name)), columns=columns)
        except (StoreMissing, pa.ArrowException, OSError) as error:
            raise StoreDamaged(f"{self.store.url}/{name} cannot be read: {error}") from error

    def tables(
        self, folder: Literal["items", "embeddings"], reports: list[PartReport], columns: list[str] | None = None
    ) -> Iterator[tuple[PartReport, pa.Table]]:
        """Yield the tables of all parts that have one, in the order of the catalogue."""
        wanted = [one for one in reports if (one.items if folder == "items" else one.embedded)]
        read = _side_by_side(lambda report: self.table(folder, report.part, columns), wanted)
        yield from zip(wanted, read, strict=True)

    def summary(self) -> Summary | None:
        """Return what came of the run, or None when it is not finished."""
        content = self.store.read_if_there(SUMMARY)
        return None if content is None else _parsed(Summary, content, f"{self.store.url}/{SUMMARY}")


def _side_by_side(read: Callable[[A], B], wanted: Sequence[A]) -> Iterator[B]:
    """Yield what `read` returns of each in their order; a store answers many at once as soon as one."""
    with ThreadPoolExecutor(_READERS, thread_name_prefix="read") as executor:
        for start in range(0, len(wanted), 2 * _READERS):
            yield from executor.map(read, wanted[start : start + 2 * _READERS])


def part_file(folder: str, part: int) -> str:
    """Return the name of a part's file in one of the folders."""
    return f"{folder}/part-{part:07d}.{'json' if folder == 'parts' else 'parquet'}"


def list_file(number: int) -> str:
    """Return the name of a file of the pinned list."""
    return f"catalogue/list-{number:05d}.parquet"


def items_schema() -> Any:
    """Return the columns of `items/`: `row` is the item's place in the catalogue."""
    text, binary = pa.string(), pa.binary(32)
    fields = [("row", pa.int64()), ("item_id", text), ("path", text), ("title", text), ("url", text)]
    return pa.schema([*fields, ("attributes", pa.map_(text, text)), ("content_sha256", binary)])


def embeddings_schema(dim: int) -> Any:
    """Return the columns of `embeddings/`: float32 of length 1."""
    return pa.schema([("content_sha256", pa.binary(32)), ("embedding", pa.list_(pa.float32(), dim))])


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as a Parquet file; embeddings do not compress, so that nothing tries to."""
    buffer = BytesIO()
    pq.write_table(table, buffer, compression={name: _compression(name) for name in table.column_names})
    return buffer.getvalue()


def _compression(column: str) -> str:
    return "none" if column in ("embedding", "content_sha256") else "zstd"


def _parsed(model: type[M], data: bytes, place: str) -> M:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise StoreDamaged(f"{place} cannot be read: {wrong_fields(error)}") from error
