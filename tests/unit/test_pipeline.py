"""The stages of a search, in order, on small models that need no weights and a real index."""

import asyncio
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lookalike.catalogue import Catalogue, Item
from lookalike.clients import EmbeddedCrops
from lookalike.config import IndexSettings, RouterSettings
from lookalike.errors import DeadlineExceeded, IndexMismatch, InvalidOption, ModelUnavailable
from lookalike.index.edits import IndexEditor
from lookalike.index.faiss_index import open_index
from lookalike.pipeline import SearchPipeline, select_subjects
from lookalike.schemas import Attribute, Description, Detection, SearchRequest, SearchResponse
from lookalike.stage_timer import Deadline, StageTimer

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "yellow": (230, 220, 40)}


class MeanColour:
    """An embedder of three numbers: the mean colour, centred and normalised."""

    name, fingerprint, dim, preparation = "mean-colour", "c0" * 8, 3, "whole image"

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        return np.asarray(image.resize((8, 8)))

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        colour = pixels.reshape(len(pixels), -1, 3).mean(axis=1).astype(np.float32) - 100
        return colour / np.linalg.norm(colour, axis=1, keepdims=True)


class ColourModels:
    """Finds what is not white, left to right; embeds by the mean colour; describes by the strongest channel."""

    def __init__(self) -> None:
        self.embedder = MeanColour()
        self.detect_s = self.describe_s = 0.0
        self.describe_error: Exception | None = None
        self.embedder_describes = True
        self.calls: list[str] = []
        self.seen: list[tuple[int, int]] = []  # the sizes of what the detector was given, and of the crops

    async def detect(self, image: Image.Image, deadline: Deadline) -> list[Detection]:
        self.calls.append("detect")
        self.seen.append(image.size)
        await asyncio.sleep(self.detect_s)
        ink = (np.asarray(image) < 250).any(axis=2)
        columns = np.flatnonzero(np.diff(np.concatenate([[0], ink.any(axis=0), [0]])))
        spans = list(zip(columns[::2].tolist(), columns[1::2].tolist(), strict=True))
        rows = np.flatnonzero(ink.any(axis=1))
        return [
            Detection(box=(x1, int(rows[0]), x2, int(rows[-1]) + 1), score=0.9 - 0.1 * i, label="patch")
            for i, (x1, x2) in enumerate(spans)
        ]

    async def embed(self, crops: Sequence[Image.Image], deadline: Deadline, describe: bool = False) -> EmbeddedCrops:
        self.calls.append("embed and describe" if describe else "embed")
        self.seen += [crop.size for crop in crops]
        embeddings = self.embedder.embed(np.stack([self.embedder.prepare(crop) for crop in crops]))
        descriptions = described(embeddings) if describe and self.embedder_describes else None
        return EmbeddedCrops(embeddings, self.embedder.fingerprint, descriptions)

    async def describe_crops(self, crops: Sequence[Image.Image], deadline: Deadline) -> list[Description]:
        self.calls.append("describe_crops")
        await asyncio.sleep(self.describe_s)
        if self.describe_error is not None:
            raise self.describe_error
        return described((await self.embed(crops, deadline)).embeddings)


def described(embeddings: NDArray[np.float32]) -> list[Description]:
    names = ["red", "green", "blue"]
    return [
        Description(attributes=[Attribute(name="channel", label=names[int(row.argmax())], score=1, sure=True)])
        for row in embeddings
    ]


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def photo(*colours: str) -> bytes:
    """Return a white picture with a patch of each colour, left to right."""
    canvas = Image.new("RGB", (100 * len(colours), 80), "white")
    for i, colour in enumerate(colours):
        canvas.paste(COLOURS[colour], (100 * i + 20, 20, 100 * i + 80, 60))
    return png(canvas)


@pytest.fixture(scope="module")
def index_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogue")
    items = []
    for name, colour in COLOURS.items():
        (folder / f"{name}.png").write_bytes(png(Image.new("RGB", (20, 20), colour)))
        items.append(Item(name, folder / f"{name}.png", title=name.title(), attributes={"colour": name}))
    index = tmp_path_factory.mktemp("index")
    IndexEditor(index, IndexSettings()).build(Catalogue(folder, items), MeanColour())
    return index


@pytest.fixture
def models() -> ColourModels:
    return ColourModels()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture
def search(index_dir: Path, models: ColourModels, executor: ThreadPoolExecutor):
    async def run(image: bytes, deadline_ms: float = 5000, settings: dict | None = None, **options) -> SearchResponse:
        index = open_index(index_dir, IndexSettings())
        pipeline = SearchPipeline(models, lambda: index, RouterSettings(**(settings or {})), executor)
        return await pipeline.search(SearchRequest(image=image, **options), "r", Deadline(deadline_ms))

    return run


async def test_the_best_detection_is_cropped_and_found(search) -> None:
    response = await search(photo("green", "blue"), top_k=2)
    assert response.subject.source == "detector"
    assert response.subject.box == (20, 20, 80, 60)
    assert response.hits[0].item_id == "green"
    assert response.hits[0].similarity == pytest.approx(1, abs=1e-3)
    assert response.hits[0].attributes == {"colour": "green"}
    assert [a.label for a in response.attributes] == ["green"]
    assert len(response.detections) == 2
    assert response.subjects is None
    assert response.index.count == 4


async def test_every_subject_has_its_own_hits_and_the_nearest_is_on_top(search) -> None:
    response = await search(photo("green", "blue"), subjects=3, top_k=1)
    assert [s.subject.source for s in response.subjects] == ["detector", "detector", "whole_image"]
    assert [s.hits[0].item_id for s in response.subjects[:2]] == ["green", "blue"]
    assert response.hits[0].similarity == max(s.hits[0].similarity for s in response.subjects)


async def test_a_client_box_needs_no_detector(search, models: ColourModels) -> None:
    response = await search(photo("green", "blue"), box=(120, 20, 180, 60), top_k=1)
    assert response.subject.source == "client"
    assert response.hits[0].item_id == "blue"
    assert "detect" not in models.calls


async def test_a_box_outside_of_the_image_is_refused_with_the_image_size(search) -> None:
    with pytest.raises(InvalidOption, match="200x80"):
        await search(photo("green", "blue"), box=(500, 20, 600, 60))


async def test_a_client_box_comes_back_clipped_to_the_image(search) -> None:
    response = await search(photo("green", "blue"), box=(120, -50, 1e9, 60))
    assert response.subject.box == (120, 0, 200, 60)


async def test_crop_none_searches_the_whole_image(search, models: ColourModels) -> None:
    response = await search(png(Image.new("RGB", (30, 30), COLOURS["yellow"])), crop="none", top_k=1)
    assert response.subject.source == "whole_image"
    assert response.hits[0].item_id == "yellow"
    assert "detect" not in models.calls


def large_photo(patch: tuple[int, int, int, int]) -> bytes:
    canvas = Image.new("RGB", (3200, 2560), "white")
    canvas.paste(COLOURS["blue"], patch)
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("patch", "crop", "seen"),
    [
        # A quarter of the photo has 640 px for the detector, and 256 px of the subject.
        ((640, 640, 1664, 1664), "auto", [(800, 640), (256, 256)]),
        ((640, 640, 1216, 1664), "auto", [(800, 640), (288, 512)]),  # half of it
        ((640, 640, 768, 1664), "auto", [(800, 640), (128, 1024)]),  # every pixel there is
        ((640, 640, 1664, 1664), "none", [(400, 320)]),
    ],
)
async def test_a_large_jpeg_is_decoded_as_far_as_the_networks_see(search, models: ColourModels, patch, crop, seen):
    response = await search(large_photo(patch), crop=crop, top_k=1)
    assert models.seen == seen
    assert (response.image.width, response.image.height) == (3200, 2560)
    assert response.subject.box == (patch if crop == "auto" else (0, 0, 3200, 2560))


async def test_the_pixels_of_a_client_box_are_decoded_at_once(search, models: ColourModels) -> None:
    response = await search(large_photo((640, 640, 1664, 1664)), box=(640, 640, 1664, 1664), top_k=1)
    assert (models.seen, response.hits[0].item_id) == ([(256, 256)], "blue")


async def test_nothing_detected_falls_back_to_the_whole_image(search) -> None:
    response = await search(png(Image.new("RGB", (30, 30), "white")))
    assert response.subject.source == "whole_image"
    assert response.subject.box == (0, 0, 30, 30)
    assert response.detections == []


async def test_filters_and_the_similarity_floor_reach_the_index(search) -> None:
    filtered = await search(photo("green"), filters={"colour": ["red", "blue"]})
    assert {hit.item_id for hit in filtered.hits} == {"red", "blue"}
    close = await search(photo("green"), min_similarity=0.99)
    assert [hit.item_id for hit in close.hits] == ["green"]


@pytest.mark.parametrize(
    ("describe_from", "embedder_describes", "calls"),
    [
        ("embedder", True, ["detect", "embed and describe"]),
        ("embedder", False, ["detect", "embed and describe", "describe_crops", "embed"]),
        ("crop", True, ["detect", "embed", "describe_crops", "embed"]),
    ],
)
async def test_metadata_comes_with_the_embedding_or_from_its_own_model(
    search, models: ColourModels, describe_from: str, embedder_describes: bool, calls: list[str]
) -> None:
    models.embedder_describes = embedder_describes
    response = await search(photo("red"), settings={"describe_from": describe_from})
    assert models.calls == calls
    assert response.attributes[0].label == "red"


async def test_attributes_are_left_out_when_not_asked_for(search, models: ColourModels) -> None:
    response = await search(photo("red"), attributes=False)
    assert response.attributes is None
    assert response.degraded == []
    assert models.calls == ["detect", "embed"]


async def test_failing_metadata_degrades_and_keeps_the_hits(search, models: ColourModels) -> None:
    models.describe_error = ModelUnavailable("gone")
    response = await search(photo("red"), settings={"describe_from": "crop"})
    assert response.degraded == ["describe"]
    assert response.attributes is None
    assert response.hits[0].item_id == "red"


async def test_slow_metadata_degrades_within_its_own_limit(search, models: ColourModels) -> None:
    models.describe_s = 5
    response = await search(photo("red"), settings={"describe_ms": 50, "describe_from": "crop"})
    assert response.degraded == ["describe"]
    assert response.timings_ms["total"] < 2000


async def test_a_slow_detector_ends_at_the_deadline_and_is_named(search, models: ColourModels) -> None:
    models.detect_s = 5
    with pytest.raises(DeadlineExceeded, match="'detect'"):
        await search(photo("red"), deadline_ms=100)


async def test_an_index_of_another_embedder_is_never_searched(search, models: ColourModels) -> None:
    models.embedder.fingerprint = "d1" * 8
    with pytest.raises(IndexMismatch, match=r"c0c0.*d1d1"):
        await search(photo("red"))


async def test_every_stage_is_timed(search) -> None:
    timings = (await search(photo("red"), settings={"describe_from": "crop"})).timings_ms
    assert set(timings) == {"decode", "detect", "crop", "embed", "describe", "lookup", "total"}
    assert timings["total"] >= max(ms for stage, ms in timings.items() if stage != "total")


async def test_a_failed_search_keeps_the_times_of_its_stages(
    index_dir: Path, models: ColourModels, executor: ThreadPoolExecutor
) -> None:
    models.embedder.fingerprint, timer = "d1" * 8, StageTimer()
    index = open_index(index_dir, IndexSettings())
    pipeline = SearchPipeline(models, lambda: index, RouterSettings(), executor)
    with pytest.raises(IndexMismatch):
        await pipeline.search(SearchRequest(image=photo("red")), "r", Deadline(5000), timer)
    assert set(timer.timings_ms()) >= {"decode", "detect", "crop", "embed", "total"}


def test_detections_below_the_line_are_not_searched() -> None:
    detections = [Detection(box=(0, 0, 5, 5), score=s, label="x") for s in (0.6, 0.3, 0.1)]
    subjects = select_subjects(detections, None, (10, 10), count=5, min_score=0.2)
    assert [s.score for s in subjects] == [0.6, 0.3, None]


async def test_items_that_are_liked_draw_the_query_towards_them(search) -> None:
    plain = await search(photo("red"), top_k=4)
    moved = await search(photo("red"), top_k=4, like=["blue"])
    assert moved.hits[0].item_id == "red"

    def rank(response: SearchResponse) -> int:
        return [hit.item_id for hit in response.hits].index("blue")

    assert rank(moved) == 1 < rank(plain)


async def test_items_that_are_not_liked_are_no_hits_and_cost_none(search) -> None:
    response = await search(photo("red"), top_k=3, unlike=["red"])
    assert len(response.hits) == 3
    assert "red" not in {hit.item_id for hit in response.hits}


async def test_an_example_that_the_catalogue_lacks_is_named(search) -> None:
    with pytest.raises(InvalidOption, match="no item 'pink'"):
        await search(photo("red"), like=["red", "pink"])
