"""The wire types around the catalogue: items, index versions, snapshots, as the gateway takes and gives them."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from lookalike.schemas import MAX_ENTRIES, Asked, ErrorBody, Few, IndexInfo, Wire


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line of printable characters")
    return text


ItemId = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_one_line)]
AttributeName = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_one_line)]
AttributeValue = Annotated[str, Field(max_length=2000)]
MAX_CHANGES = 10_000  # of a batch, whatever the settings allow


class ItemFields(Asked):
    """What the owner of a catalogue says of an item."""

    title: Annotated[str, Field(max_length=2000)] | None = None
    url: Annotated[str, Field(max_length=2048, pattern="^https?://")] | None = None
    attributes: Annotated[dict[AttributeName, AttributeValue], Few, Field(max_length=MAX_ENTRIES, default_factory=dict)]


class ItemPut(ItemFields):
    """An item to add or to replace; without an `image` (base64) the item keeps the one that it has."""

    item_id: ItemId
    image: str | None = None


class ItemBatch(Asked):
    """Items to add or replace, and item_ids to remove; no item_id twice."""

    put: Annotated[list[ItemPut], Field(max_length=MAX_CHANGES, default_factory=list)]
    delete: Annotated[list[ItemId], Field(max_length=MAX_CHANGES, default_factory=list)]


class CatalogueItem(Wire):
    """An item as the index has it; `path` is where its image lies on the server."""

    item_id: str
    title: str | None = None
    url: str | None = None
    attributes: Annotated[dict[str, str], Field(default_factory=dict)]
    path: str
    content_sha256: str


class ItemsPage(Wire):
    """Items of one index version; `next_cursor` asks for those that follow, and is left out on the last page."""

    version: str
    count: int
    items: list[CatalogueItem]
    next_cursor: str | None = None


class SampleItem(Wire):
    """An item to search by: the paths of its picture, small and at the size that a search needs."""

    item_id: str
    title: str | None = None
    thumbnail: str
    picture: str


class SampleItems(Wire):
    """Items spread over one index version, the same for everybody; none where the operator offers none."""

    version: str
    samples: list[SampleItem]


class ItemOutcome(Wire):
    """What became of one change."""

    item_id: str
    outcome: Literal["added", "replaced", "unchanged", "removed", "refused"]
    error: ErrorBody | None = None


class ItemEdited(ItemOutcome):
    """What became of a change, and the index version in which it is visible."""

    version: str


class ItemsEdited(Wire):
    """What became of each change of a batch, in its order; `version` is left out when all were refused."""

    version: str | None = None
    results: list[ItemOutcome]


class IndexState(Wire):
    """The published version, the versions on disk, and the version that the router has."""

    version: str
    count: int
    kind: str
    created: str
    embedder: str
    fingerprint: str
    dim: int
    attributes: list[str]
    versions: list[str]
    serving: IndexInfo | None = None


SnapshotName = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class SnapshotRequest(Asked):
    """The name of a snapshot."""

    name: SnapshotName


class SnapshotInfo(Wire):
    """A snapshot: one tar file of an index version."""

    name: str
    version: str
    count: int
    bytes: int


class SnapshotList(Wire):
    """All snapshots by name."""

    snapshots: list[SnapshotInfo]
