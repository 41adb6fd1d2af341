"""The collections of a catalogue in Milvus: how they are named, what describes them, and which one serves.

A catalogue is an alias. It leads to one collection, `<catalogue>_<number>_<8 hex>`, whose manifest is kept among its
properties; another one is built beside it, checked, and takes its place when the alias is switched, in one step.
`<catalogue>_previous` leads to the last collection of the embedder before, while both embedders serve (docs/adr/0011).
"""

import json
import re
import time
from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from lookalike.config import IndexSettings
from lookalike.errors import IndexDamaged, IndexMismatch, IndexUnavailable, SetupError, wrong_fields
from lookalike.index.manifest import DTYPE, METRIC, Manifest
from lookalike.index.milvus.connection import MilvusConnection
from lookalike.index.milvus.rows import EMBEDDING, FIELDS, collection_schema
from lookalike.index.milvus.structures import structure_params

FORMAT_VERSION = 1  # of the collections; that of the manifest is its own
_FORMAT, _MANIFEST, _STATE, _SOURCE, _NAMES = (
    "lookalike.format",
    "lookalike.manifest",
    "lookalike.state",
    "lookalike.source",
    "lookalike.attributes",
)
_CATALOGUE = re.compile(r"^[A-Za-z][A-Za-z0-9_]{0,199}$")
State = Literal["building", "ready"]
_INDEXING_POLL_S = 0.2


@dataclass(frozen=True)
class Collection:
    """One collection of a catalogue, as it describes itself."""

    name: str
    state: str
    source: str
    manifest: Manifest


class MilvusCatalogue:
    """The collections and aliases of one catalogue.

    Raises from every method:
        IndexUnavailable: the server cannot be reached, or what was asked for is not there.
    """

    def __init__(self, connection: MilvusConnection, name: str) -> None:
        """Raises SetupError for a name that Milvus does not take."""
        if not _CATALOGUE.match(name):
            raise SetupError(f"{name!r} is no name of a catalogue in Milvus", allowed="letters, digits and _")
        self.connection, self.name = connection, name
        self.previous_alias = f"{name}_previous"
        self._collection = re.compile(rf"^{re.escape(name)}_(\d{{6,}})_[0-9a-f]{{8}}$")

    def current(self) -> str | None:
        """Return the name of the collection that serves, or None when there is none."""
        return self._behind(self.name)

    def previous(self) -> str | None:
        """Return the last collection of the embedder before, or None when there is none to serve."""
        return self._behind(self.previous_alias)

    def serving(self) -> str:
        """Return the name of the collection that serves; raises IndexUnavailable when there is none."""
        name = self.current()
        if name is None:
            raise IndexUnavailable(
                f"no catalogue {self.name} is published in Milvus at {self.connection.settings.uri}; "
                f"bring one there: lookalike index migrate INDEX_DIR milvus:{self.name}"
            )
        return name

    def names(self) -> list[str]:
        """Return the names of the catalogue's collections, oldest first."""
        with self.connection.told("listing collections"):
            names = self.connection.client.list_collections(**self.connection.call)
        numbers = {name: int(found[1]) for name in names if (found := self._collection.match(name))}
        return sorted(numbers, key=lambda name: (numbers[name], name))

    def describe(self, name: str) -> Collection:
        """Return what a collection says of itself.

        Raises:
            IndexDamaged: it is none of Lookalike's, of a newer format, or its fields are not those of its manifest.
            IndexMismatch: it was built for another metric.
        """
        with self.connection.told(f"describing {name}"):
            found = self.connection.client.describe_collection(name, **self.connection.call)
        properties = found["properties"]
        manifest = _manifest_in(name, properties)
        _check_fields(name, manifest, found["fields"])
        return Collection(name, properties.get(_STATE, ""), properties.get(_SOURCE, ""), manifest)

    def manifest(self, name: str) -> Manifest:
        """Return what a collection was built from, without its count; raises as `describe`."""
        return self.describe(name).manifest

    def create(self, manifest: Manifest, source: str, count: int, settings: IndexSettings) -> str:
        """Make an empty collection for about `count` items, loaded and in the state `building`; return its name.

        `source` says what it is filled from, so that whoever goes on filling it finds it again.
        """
        number = max([int(self._collection.match(name)[1]) for name in self.names()], default=0) + 1  # type: ignore[index]
        name = f"{self.name}_{number:06d}_{manifest.digest()}"
        named = manifest.model_copy(update={"version": name, "count": 0, "files": {}})
        # With the collection itself, in one step: none is ever without its manifest.
        properties = {
            _FORMAT: str(FORMAT_VERSION),
            _MANIFEST: named.model_dump_json(exclude={"attributes"}),
            _STATE: "building",
            _SOURCE: source,
            _NAMES: json.dumps(manifest.attributes),
        }
        with self.connection.told(f"creating {name}"):
            self.connection.client.create_collection(
                name,
                schema=collection_schema(manifest.dim),
                index_params=structure_params(manifest, count, settings),
                properties=properties,
                consistency_level=self.connection.settings.consistency_level,
                timeout=self.connection.settings.build_timeout_s,
            )
        return name

    def include_attributes(self, name: str, attributes: Set[str]) -> None:
        """Add names to the attributes that filters of the collection may name."""
        known = set(self.manifest(name).attributes)
        if attributes - known:
            self._alter(name, {_NAMES: json.dumps(sorted(known | attributes))})

    def stored_count(self, name: str) -> int:
        """Return about how many items a collection holds, without loading it into memory."""
        with self.connection.told(f"asking for the size of {name}"):
            return int(self.connection.client.get_collection_stats(name, **self.connection.call)["row_count"])

    def load(self, name: str) -> None:
        """Have a collection in memory, so that it can be searched; one that is there already stays."""
        with self.connection.told(f"loading {name}"):
            self.connection.client.load_collection(name, timeout=self.connection.settings.build_timeout_s)

    def settle(self, name: str) -> None:
        """Seal what was written, and wait until the search structure has it all."""
        connection, client = self.connection, self.connection.client
        limit_s = connection.settings.build_timeout_s
        with connection.told(f"flushing {name}"):
            client.flush(name, timeout=limit_s)
        end_s = time.monotonic() + limit_s
        while True:
            with connection.told(f"indexing {name}"):
                found = client.describe_index(name, EMBEDDING, **connection.call)
            if found.get("state") in ("Finished", None) and not found.get("pending_index_rows"):
                return
            if time.monotonic() > end_s or found.get("state") == "Failed":
                raise IndexUnavailable(
                    f"Milvus at {connection.settings.uri} has not indexed {name} ({found.get('pending_index_rows')} "
                    f"rows are left after {limit_s:g} s): {found.get('index_state_fail_reason', found.get('state'))}"
                )
            time.sleep(_INDEXING_POLL_S)

    def mark_ready(self, name: str) -> None:
        """Say that a collection is whole and checked."""
        self._alter(name, {_STATE: "ready"})

    def switch_to(self, name: str) -> None:
        """Let the catalogue's alias lead to `name`, in one step; of another embedder, the one before stays at hand.

        Raises:
            IndexDamaged: the collection is not ready to serve.
        """
        new, before = self.describe(name), self.current()
        if new.state != "ready":
            raise IndexDamaged(f"collection {name} is not whole: its state is {new.state or 'unknown'}")
        if before is not None and self.manifest(before).fingerprint != new.manifest.fingerprint:
            self._point(self.previous_alias, before)
        self._point(self.name, name)

    def retire_previous(self) -> str | None:
        """Forget the collection of the embedder before, once nobody serves that embedder; return its name."""
        name = self.previous()
        if name is not None:
            with self.connection.told(f"dropping the alias {self.previous_alias}"):
                self.connection.client.drop_alias(self.previous_alias, **self.connection.call)
        return name

    def drop(self, name: str) -> None:
        """Delete a collection that does not serve.

        Raises:
            SetupError: it serves, or it is none of the catalogue's.
        """
        # Older servers drop a collection from under its alias without a word.
        in_use = {self.name: self.current(), self.previous_alias: self.previous()}
        for alias, target in in_use.items():
            if name == target:
                raise SetupError(f"collection {name} serves as {alias}: it is not dropped")
        if name not in self.names():
            raise SetupError(f"catalogue {self.name} has no collection {name}", allowed=self.names())
        with self.connection.told(f"dropping {name}"):
            self.connection.client.drop_collection(name, **self.connection.call)

    def _behind(self, alias: str) -> str | None:
        from pymilvus import MilvusException

        with self.connection.told(f"asking for the alias {alias}"):
            try:
                found = self.connection.client.describe_alias(alias, **self.connection.call)
            except MilvusException as error:
                if error.code in _NO_ALIAS or "alias not found" in error.message or "not exist" in error.message:
                    return None
                raise
        return str(found["collection_name"])

    def _point(self, alias: str, name: str) -> None:
        with self.connection.told(f"switching the alias {alias}"):
            change = self.connection.client.create_alias
            if self._behind(alias) is not None:
                change = self.connection.client.alter_alias
            change(name, alias, **self.connection.call)

    def _alter(self, name: str, properties: dict[str, str]) -> None:
        with self.connection.told(f"altering {name}"):
            self.connection.client.alter_collection_properties(name, properties, **self.connection.call)


_NO_ALIAS = {1600}  # Milvus's ErrAliasNotFound


def _manifest_in(name: str, properties: dict[str, str]) -> Manifest:
    version = properties.get(_FORMAT, "")
    if not version.isdigit():
        raise IndexDamaged(f"collection {name} has no manifest: it was not made by Lookalike")
    if int(version) > FORMAT_VERSION:
        raise IndexDamaged(
            f"collection {name} has format {version}, which is newer than this program; "
            f"formats up to {FORMAT_VERSION} are read"
        )
    try:
        attributes = json.loads(properties[_NAMES])
        manifest = Manifest.model_validate(json.loads(properties[_MANIFEST]) | {"attributes": attributes})
    except (KeyError, ValueError) as error:
        wrong = wrong_fields(error) if isinstance(error, ValidationError) else str(error)
        raise IndexDamaged(f"collection {name}: its manifest is wrong: {wrong}") from error
    if (manifest.metric, manifest.dtype) != (METRIC, DTYPE):
        raise IndexMismatch(
            f"collection {name} was built for {manifest.metric} on {manifest.dtype}; "
            f"this program searches by {METRIC} on {DTYPE}"
        )
    return manifest


def _check_fields(name: str, manifest: Manifest, fields: list[dict[str, Any]]) -> None:
    found = {field["name"]: field for field in fields}
    if lacking := [field for field in FIELDS if field not in found]:
        raise IndexDamaged(f"collection {name} lacks fields: {', '.join(lacking)}")
    dim = int(found[EMBEDDING]["params"]["dim"])
    if dim != manifest.dim:
        raise IndexMismatch(f"collection {name} holds embeddings of {dim} dimensions; its manifest says {manifest.dim}")
