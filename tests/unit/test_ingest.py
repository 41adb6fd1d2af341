from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lookalike.catalogue import Catalogue, Item
from lookalike.config import ImageLimits
from lookalike.errors import SetupError
from lookalike.index.store import EmbeddingStore
from lookalike.ingest import Embedded, Ingest, IngestOptions
from tests.colour_embedder import ColourEmbedder, catalogue_of, save_picture


def store_in(folder: Path, embedder: ColourEmbedder) -> EmbeddingStore:
    return EmbeddingStore(folder / "embeddings", embedder.fingerprint, embedder.preparation, embedder.dim)


def ingest(
    folder: Path, catalogue: Catalogue, embedder: ColourEmbedder, chunk_items: int = 8, **options: object
) -> Embedded:
    chosen = IngestOptions(batch_images=4, **options)  # type: ignore[arg-type]
    return Ingest(embedder, store_in(folder, embedder), chosen, chunk_items).run(catalogue.items, lambda done: None)


def test_every_readable_image_gets_its_own_embedding(tmp_path: Path) -> None:
    catalogue, embedder = catalogue_of(tmp_path, 21), ColourEmbedder()
    embedded = ingest(tmp_path, catalogue, embedder)
    keys = [embedded.content_sha256[item.item_id] for item in catalogue.items]
    found = store_in(tmp_path, embedder).known.gather(keys)
    assert np.allclose(found @ found.T >= 0.999, np.eye(21))
    assert embedded.new_embeddings == embedder.embedded == 21


def test_unreadable_images_are_named_with_the_reason_and_do_not_stop_the_run(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, 3)
    (tmp_path / "0.png").write_bytes(b"no image")
    (tmp_path / "1.png").unlink()
    embedded = ingest(tmp_path, catalogue, ColourEmbedder())
    assert list(embedded.content_sha256) == ["item-2"]
    reasons = {problem.item_id: problem.reason for problem in embedded.problems}
    assert reasons["item-0"].startswith("unsupported_image: ")
    assert reasons["item-1"] == "no such file or directory"


def test_a_path_that_cannot_name_a_file_is_unreadable(tmp_path: Path) -> None:
    items = [*catalogue_of(tmp_path, 1).items, Item("nul", tmp_path / "a\0.png")]
    embedded = ingest(tmp_path, Catalogue(tmp_path, items), ColourEmbedder())
    (problem,) = embedded.problems
    assert (problem.kind, problem.path) == ("unreadable", f"{tmp_path}/a\\x00.png")
    assert "null byte" in problem.reason
    assert list(embedded.content_sha256) == ["item-0"]


def test_a_path_that_is_no_utf8_can_be_reported(tmp_path: Path) -> None:
    embedded = ingest(tmp_path, Catalogue(tmp_path, [Item("x", tmp_path / "\udcff.png")]), ColourEmbedder())
    assert embedded.problems[0].path == f"{tmp_path}/\\udcff.png"


def test_an_image_over_the_limits_is_unreadable(tmp_path: Path) -> None:
    embedded = ingest(tmp_path, catalogue_of(tmp_path, 1), ColourEmbedder(), limits=ImageLimits(max_edge_px=8))
    assert "image_too_large" in embedded.problems[0].reason


def test_what_was_embedded_once_is_not_embedded_again(tmp_path: Path) -> None:
    ingest(tmp_path, catalogue_of(tmp_path, 10), ColourEmbedder())
    second = ColourEmbedder()
    assert ingest(tmp_path, catalogue_of(tmp_path, 12), second).new_embeddings == 2
    assert second.embedded == 2


def test_another_preparation_or_embedder_uses_nothing_of_it(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, 5)
    ingest(tmp_path, catalogue, ColourEmbedder())
    for other in (ColourEmbedder(preparation="crop by detector 1"), ColourEmbedder(fingerprint="0" * 16)):
        assert ingest(tmp_path, catalogue, other).new_embeddings == 5


def test_equal_images_are_embedded_once(tmp_path: Path) -> None:
    paths = [save_picture(tmp_path / f"{number}.png", seed=1) for number in range(6)]
    embedder = ColourEmbedder()
    embedded = ingest(tmp_path, Catalogue(tmp_path, [Item(path.name, path) for path in paths]), embedder)
    assert embedder.embedded == 1
    assert len(set(embedded.content_sha256.values())) == 1


class BreaksOff(ColourEmbedder):
    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self.embedded >= 12:
            raise KeyboardInterrupt
        return super().embed(pixels)


def test_a_run_that_is_broken_off_keeps_all_that_it_had_embedded(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, 30)
    with pytest.raises(KeyboardInterrupt):
        ingest(tmp_path, catalogue, BreaksOff())
    second = ColourEmbedder()
    ingest(tmp_path, catalogue, second)
    assert second.embedded == 30 - 12


def test_a_damaged_chunk_is_noticed_and_embedded_again(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, 16)
    ingest(tmp_path, catalogue, ColourEmbedder())
    chunk = next(iter(sorted((tmp_path / "embeddings").glob("*/*.npy"))))
    data = bytearray(chunk.read_bytes())
    data[-1] ^= 1
    chunk.write_bytes(data)
    second = ColourEmbedder()
    ingest(tmp_path, catalogue, second)
    assert second.embedded == 8


class NotFinite(ColourEmbedder):
    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        embeddings = super().embed(pixels)
        embeddings[0] = np.nan
        return embeddings


def test_an_embedding_that_is_not_finite_makes_its_image_a_problem(tmp_path: Path) -> None:
    embedded = ingest(tmp_path, catalogue_of(tmp_path, 4), NotFinite())
    assert [problem.item_id for problem in embedded.problems] == ["item-0"]
    assert list(embedded.content_sha256) == ["item-1", "item-2", "item-3"]


class WrongShape(ColourEmbedder):
    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return super().embed(pixels)[:, :5]


def test_an_embedder_of_another_dim_than_it_says_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"colours returned \(4, 5\) for 4 images; its dim is 48"):
        ingest(tmp_path, catalogue_of(tmp_path, 4), WrongShape())


def test_few_images_are_held_at_once(tmp_path: Path) -> None:
    taken = 0

    def items() -> Iterator[Item]:
        nonlocal taken
        for item in catalogue_of(tmp_path, 60).items:
            taken += 1
            yield item

    class Counts(ColourEmbedder):
        furthest = 0

        def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            Counts.furthest = max(Counts.furthest, taken - self.embedded)
            return super().embed(pixels)

    embedder = Counts()
    run = Ingest(embedder, store_in(tmp_path, embedder), IngestOptions(batch_images=4), 8)
    run.run(items(), lambda done: None)  # type: ignore[arg-type]
    assert Counts.furthest <= 4 + 8 + 1
