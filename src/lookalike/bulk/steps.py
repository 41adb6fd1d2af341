"""What Ray runs of a bulk run, each on some machine: rows in, rows out, around the steps of a part."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from typing import Any, TypeVar

from lookalike.bulk.claims import spread
from lookalike.bulk.embedder import BulkEmbedder, BulkOptions
from lookalike.bulk.output import BulkOutput, BulkPlan
from lookalike.bulk.parts import EmbeddedPart, PreparedPart, embed_part, keep_part, prepare_part
from lookalike.bulk.pinned_list import part_of_list
from lookalike.config import ModelSettings
from lookalike.delivery.store import Store, open_store
from lookalike.errors import LookalikeError

T = TypeVar("T")


@dataclass(frozen=True)
class Broken:
    """A part that met an error of the project; it ends the run."""

    message: str


def claim_of(registries: list[Any], part: int, keys: Sequence[bytes]) -> list[bool]:
    """Ask each registry for the images that it knows; see `Claims.claim`."""
    ray = importlib.import_module("ray")
    asked: list[list[bytes]] = [[] for _ in registries]
    for key, where in zip(keys, spread(keys, len(registries)), strict=True):
        asked[where].append(key)
    answers = ray.get([one.claim.remote(part, some) for one, some in zip(registries, asked, strict=True)])
    owned = dict(zip(chain(*asked), chain(*answers), strict=True))
    return [owned[key] for key in keys]


@cache
def _store(url: str) -> Store:
    return open_store(url)  # one a process: each has its own connections


def prepare_row(
    row: dict[str, Any],
    url: str,
    plan: BulkPlan,
    embedder: BulkEmbedder,
    options: BulkOptions,
    claim: Callable[[int, Sequence[bytes]], list[bool]],
) -> dict[str, Any]:
    """Prepare the part that `row` names."""
    part = int(row["part"])
    first_row = part * plan.part_items

    def prepare() -> PreparedPart:
        items = part_of_list(_store(url), part)
        return prepare_part(part, first_row, items, embedder.prepare, claim, options.limits, options.threads)

    return {"prepared": _tried(prepare)}


class Embed:
    """The actor: it loads the network once."""

    def __init__(self, embedder: BulkEmbedder, options: BulkOptions, url: str) -> None:
        on_gpu = options.gpus_per_actor > 0
        device = {"device": "cuda"} if on_gpu else {"device": "cpu", "threads": max(1, int(options.cpus_per_actor))}
        self._embedder, self._batch_images = embedder.load(ModelSettings.load(device)), options.batch_images
        self._url = url

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Embed the prepared parts of a batch."""
        return {"embedded": [self._embedded(one) for one in batch["prepared"]]}

    def _embedded(self, prepared: PreparedPart | Broken) -> EmbeddedPart | Broken:
        if isinstance(prepared, Broken):
            return prepared
        return _tried(partial(embed_part, prepared, self._embedder, self._batch_images))


class EmbedAndKeep(Embed):
    """The actor where the network takes most of the time, and a process more would only take cores from it."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Embed and keep the prepared parts of a batch; rows as of `keep_row`."""
        embedded = super().__call__(batch)["embedded"]
        kept = [keep_row({"embedded": one}, self._url) for one in embedded]
        return {name: [row[name] for row in kept] for name in ("items", "error")}


def keep_row(row: dict[str, Any], url: str) -> dict[str, Any]:
    """Keep the part of `row`; return how many of its items are done with, and the error that ends the run."""
    embedded = row["embedded"]
    done = embedded if isinstance(embedded, Broken) else _tried(partial(keep_part, embedded, BulkOutput(_store(url))))
    if isinstance(done, Broken):
        return {"items": 0, "error": done.message}
    return {"items": done.items + len(done.problems), "error": ""}


def _tried(step: Callable[[], T]) -> T | Broken:
    """Return what a step returns, or the project's error in it: Ray would make pages of it, and lose its class."""
    try:
        return step()
    except LookalikeError as error:
        return Broken(error.message)
