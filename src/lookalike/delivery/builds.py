"""A parallel build as the store holds it: what all its shards agree on, and the shards that are finished.

builds/<build>/plan.json                    what is built of what, and over which version; written by who comes first
builds/<build>/shard-00003-of-00008.arrow   the items and embeddings of one share
builds/<build>/shard-00003-of-00008.json    its sha256, and what could not be taken; its presence says: finished
builds/<build>/chunks/00003-of-00008/       embeddings of a share that is not finished
builds/<build>/published                    the version that came of it
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lookalike.catalogue import Catalogue, Item
from lookalike.delivery.store import Store
from lookalike.errors import SetupError, StoreDamaged, StoreMissing, StoreMoved, wrong_fields
from lookalike.index.manifest import FileEntry
from lookalike.ingest import Problem

BUILDS = "builds"
_NAME = re.compile(r"^[A-Za-z0-9][\w.-]{0,99}$")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=_Strict)


class Plan(_Strict):
    """What every shard of a build has in common; `over` is the version that was in use when the build began."""

    build: str
    begun: str
    count: Annotated[int, Field(ge=1)]
    embedder: str
    fingerprint: str
    dim: Annotated[int, Field(gt=0)]
    preparation: str
    duplicates: Literal["skip", "keep"]
    items: Annotated[int, Field(ge=0)]
    source_sha256: str
    over: str | None

    def digest(self) -> str:
        """Return a sha256 by which a shard says which plan it belongs to."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def differences(self, other: "Plan") -> list[str]:
        """Return in which respects `other` is of another build, each by name."""
        own_time = {"begun", "over"}  # each shard comes at its own time; the first one's counts
        mine, others = self.model_dump(exclude=own_time), other.model_dump(exclude=own_time)
        return [f"{name} is {others[name]!r} instead of {mine[name]!r}" for name in mine if mine[name] != others[name]]


class ShardReport(_Strict):
    """One finished shard: its file, its place in its build, and what could not be taken."""

    index: Annotated[int, Field(ge=0)]
    plan_sha256: str
    file: FileEntry
    items: Annotated[int, Field(ge=0)]
    embedded: Annotated[int, Field(ge=0)]
    problems: list[Problem]


class Build:
    """One build in a store."""

    def __init__(self, store: Store, name: str) -> None:
        """Look at the build `name`; nothing is asked yet.

        Raises:
            SetupError: the name cannot be a folder's.
        """
        if not _NAME.match(name):
            raise SetupError(f"build {name!r} is no name", allowed="letters, digits, '.', '_' and '-'")
        self.store, self.name = store, name

    def plan(self) -> Plan:
        """Return the plan of the build.

        Raises:
            StoreMissing: no shard has begun.
        """
        try:
            return _parsed(Plan, self.store.read(self.object_name("plan.json")), f"build {self.name}: plan.json")
        except StoreMissing as error:
            raise StoreMissing(f"build {self.name} has not begun in {self.store.url}") from error

    def join(self, own: Plan) -> Plan:
        """Return the plan of the build, which is `own` when it begins with this shard.

        Raises:
            SetupError: the build was begun with something else, named.
        """
        begun = self._begun(own)
        if differences := begun.differences(own):
            raise SetupError(
                f"build {self.name} was begun with something else: {'; '.join(differences)}; take a new name for it"
            )
        return begun

    def _begun(self, own: Plan) -> Plan:
        if self.store.read_if_there(self.object_name("plan.json")) is None:
            with suppress(StoreMoved):  # another shard was first, a moment ago
                self.store.put_new(self.object_name("plan.json"), own.model_dump_json(indent=2).encode())
        return self.plan()

    def reports(self, plan: Plan) -> dict[int, ShardReport]:
        """Return the finished shards by their index.

        Raises:
            SetupError: one that is in another's place or of another build, by name.
        """
        there = set(self.store.names(f"{BUILDS}/{self.name}"))
        expected = {f"{shard_name(index, plan.count)}.json": index for index in range(plan.count)}
        if strange := sorted(
            name for name in there - expected.keys() if name.startswith("shard-") and name.endswith(".json")
        ):
            raise SetupError(f"build {self.name} has a foreign shard: {strange[0]}; it has {plan.count} shards")
        return {index: self._report(plan, index) for name, index in expected.items() if name in there}

    def report(self, plan: Plan, index: int) -> ShardReport | None:
        """Return one finished shard, or None when it is not finished or not of this plan."""
        content = self.store.read_if_there(self.object_name(f"{shard_name(index, plan.count)}.json"))
        if content is None:
            return None
        try:
            found = ShardReport.model_validate_json(content)
        except ValidationError:
            return None
        return found if (found.index, found.plan_sha256) == (index, plan.digest()) else None

    def _report(self, plan: Plan, index: int) -> ShardReport:
        name = shard_name(index, plan.count)
        found = _parsed(ShardReport, self.store.read(self.object_name(f"{name}.json")), f"build {self.name}: {name}")
        if found.index != index:
            raise SetupError(f"build {self.name}: {name} is doubled: it holds shard {found.index}")
        if found.plan_sha256 != plan.digest():
            raise SetupError(f"build {self.name}: {name} is foreign: it was made by another plan")
        return found

    def others(self) -> Iterator["Build"]:
        """Yield the other builds in the store."""
        for name in self.store.names(BUILDS):
            if name != self.name and _NAME.match(name):
                yield Build(self.store, name)

    def object_name(self, file: str) -> str:
        """Return the name of a file of this build in the store."""
        return f"{BUILDS}/{self.name}/{file}"


def shard_name(index: int, count: int) -> str:
    """Return how shard `index` of `count` is called; people count from 0 as the Job does."""
    return f"shard-{index:05d}-of-{count:05d}"


def share_of(items: Sequence[Item], index: int, count: int) -> list[tuple[int, Item]]:
    """Return the items of shard `index` of `count` with their rows: by a hash of the item_id, the same everywhere."""
    return [(row, item) for row, item in enumerate(items) if _slot(item.item_id, count) == index]


def _slot(item_id: str, count: int) -> int:
    return int.from_bytes(hashlib.sha256(item_id.encode()).digest()[:8]) % count


def source_digest(catalogue: Catalogue) -> str:
    """Return a sha256 over all that a catalogue says of its items, in their order."""
    total = hashlib.sha256()
    for item in catalogue.items:
        said = [item.item_id, str(item.path), item.title, item.url, item.attributes]
        total.update(json.dumps(said, sort_keys=True).encode() + b"\n")
    return total.hexdigest()


def _parsed(model: type[M], data: bytes, place: str) -> M:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise StoreDamaged(f"{place} cannot be read: {wrong_fields(error)}") from error
