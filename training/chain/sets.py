"""The sets that the whole chain is measured on: query photos, the catalogue to search in, and what is right."""

import csv
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lookalike.catalogue import Catalogue, Item
from lookalike.errors import SetupError
from lookalike.schemas import Box, Filters

PAIRS_FILE = Path("training/configs/chain_pairs.csv")
SETS = ("paintings", "grocery", "walls", "composites")


@dataclass(frozen=True)
class ChainQuery:
    """A photo, the item_ids that are right for it, and its subject's box where that is known."""

    path: Path
    relevant: frozenset[str]
    box: Box | None = None
    filters: Filters | None = None


@dataclass(frozen=True)
class ChainSet:
    """Queries and the catalogue that they are searched in."""

    name: str
    title: str
    catalogue: Catalogue
    queries: list[ChainQuery]

    def sampled(self, count: int | None, seed: int) -> "ChainSet":
        """Return the set with at most `count` queries, the same ones for the same seed; the catalogue stays whole."""
        if count is None or count >= len(self.queries):
            return self
        return replace(self, queries=random.Random(seed).sample(self.queries, count))


def read_sets(data: Path, names: Sequence[str], pairs_file: Path) -> list[ChainSet]:
    """Return the named sets.

    Raises:
        SetupError: for an unknown name or a missing manifest.
    """
    unknown = sorted(set(names) - set(SETS))
    if unknown:
        raise SetupError(f"no set {', '.join(unknown)}", allowed=SETS)
    pairs = _read_rows(pairs_file)
    readers = {
        "paintings": lambda: _paintings(data),
        "grocery": lambda: _grocery(data),
        "walls": lambda: _walls(data, pairs),
        "composites": lambda: _composites(data, pairs),
    }
    return [readers[name]() for name in names]


def _read_rows(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            return list(csv.DictReader(opened))
    except OSError as error:
        raise SetupError(f"cannot read {file}: {error.strerror}", allowed="LOOKALIKE_DATA names the data") from error


def _retrieval(data: Path, set_name: str, *roles: str) -> Iterator[dict[str, str]]:
    for row in _read_rows(data / "retrieval/manifest.csv"):
        if row["set"] == set_name and row["split"] == "test" and row["role"] in roles:
            yield row


def _painting_catalogue(data: Path) -> tuple[Catalogue, dict[tuple[str, str], frozenset[str]]]:
    """Return the catalogue of both vintages, and the item_ids of a painting in a vintage."""
    rows = list(_retrieval(data, "museum-paintings", "gallery"))
    items = [
        Item(row["file"], data / "retrieval" / row["file"], row["class_name"], attributes={"vintage": row["vintage"]})
        for row in rows
    ]
    keys = {(row["class_id"], row["vintage"]) for row in rows}
    of_painting = {
        key: frozenset(row["file"] for row in rows if (row["class_id"], row["vintage"]) == key) for key in keys
    }
    return Catalogue(data / "retrieval", items), of_painting


def _paintings(data: Path) -> ChainSet:
    catalogue, of_painting = _painting_catalogue(data)
    queries = [
        ChainQuery(
            data / "retrieval" / row["file"],
            of_painting[row["class_id"], row["vintage"]],
            filters={"vintage": [row["vintage"]]},
        )
        for row in _retrieval(data, "museum-paintings", "query")
    ]
    return ChainSet("paintings", "museum paintings: phone photo to catalogue photo", catalogue, queries)


def _grocery(data: Path) -> ChainSet:
    rows = list(_retrieval(data, "grocery", "iconic"))
    items = [Item(row["file"], data / "retrieval" / row["file"], row["class_name"]) for row in rows]
    queries = [
        ChainQuery(
            data / "retrieval" / row["file"],
            frozenset(icon["file"] for icon in rows if icon["class_id"] == row["class_id"]),
        )
        for row in _retrieval(data, "grocery", "query")
    ]
    return ChainSet("grocery", "grocery: in-store photo to product picture", Catalogue(data, items), queries)


def _boxes(data: Path) -> dict[str, Box]:
    return {
        row["file"]: (float(row["x1"]), float(row["y1"]), float(row["x2"]), float(row["y2"]))
        for row in _read_rows(data / "autocrop/manifest.csv")
    }


def _walls(data: Path, pairs: Sequence[dict[str, str]]) -> ChainSet:
    """Return the validation photos of museum walls whose paintings the catalogue of the same vintage has."""
    (catalogue, of_painting), boxes = _painting_catalogue(data), _boxes(data)
    queries = []
    for pair in pairs:
        if pair["set"] == "walls":
            vintage = Path(pair["query"]).name.removeprefix("mcv")[:2]
            relevant = frozenset[str]().union(*(of_painting[painting, vintage] for painting in pair["items"].split()))
            path = data / "autocrop" / pair["query"]
            queries.append(ChainQuery(path, relevant, boxes[pair["query"]], {"vintage": [vintage]}))
    return ChainSet("walls", "museum walls: photo of a wall to catalogue photo", catalogue, queries)


def _composites(data: Path, pairs: Sequence[dict[str, str]]) -> ChainSet:
    """Return the validation composites; their catalogue is the whole kit of cut-outs and paintings."""
    kit = [row for row in _read_rows(data / "autocrop/kit/kit.csv") if row["kind"] != "background"]
    items = [Item(row["file"], data / "autocrop/kit" / row["file"], attributes={"kind": row["kind"]}) for row in kit]
    boxes = _boxes(data)
    queries = [
        ChainQuery(data / "autocrop" / pair["query"], frozenset(pair["items"].split()), boxes[pair["query"]])
        for pair in pairs
        if pair["set"] == "composites"
    ]
    return ChainSet("composites", "composites: pasted object to its kit picture", Catalogue(data, items), queries)
