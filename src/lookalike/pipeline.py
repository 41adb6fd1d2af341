"""The order of the stages of one search, readable in one screen."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookalike.clients import EmbeddedCrops, ModelClient
from lookalike.config import RouterSettings
from lookalike.errors import IndexMismatch, ServiceError
from lookalike.feedback import moved_queries
from lookalike.images import DecodedImage, decode_image, shortest_edge
from lookalike.index.protocol import VectorIndex
from lookalike.schemas import (
    Box,
    Description,
    Detection,
    Hit,
    SearchRequest,
    SearchResponse,
    Subject,
    SubjectResult,
)
from lookalike.stage_timer import Deadline, StageTimer

T = TypeVar("T")


def select_subjects(
    detections: Sequence[Detection], box: Box | None, size: tuple[int, int], count: int, min_score: float
) -> list[Subject]:
    """Return the regions to search: the client's box, else the `count` best detections, else the whole image.

    Who asks for several subjects gets the whole image after them: a photo may already show its
    subject alone, and a crop then costs more than it gains (docs/evaluation.md).
    """
    if box is not None:
        return [Subject(box=_inside(box, size), source="client")]
    whole = Subject(box=(0, 0, *size), source="whole_image")
    best = [detection for detection in detections if detection.score >= min_score][:count]
    subjects = [Subject(box=d.box, source="detector", score=d.score, label=d.label) for d in best]
    return [*subjects, whole] if count > 1 or not subjects else subjects


def _inside(box: Box, size: tuple[int, int]) -> Box:
    """Return `box` clipped to the image; one that lies outside stays as it is, for `crop_box` to refuse by name."""
    x1, y1, x2, y2 = max(box[0], 0), max(box[1], 0), min(box[2], size[0]), min(box[3], size[1])
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else box


class SearchPipeline:
    """Decode, detect, choose the subjects, crop, embed and describe, look up."""

    def __init__(
        self,
        models: ModelClient,
        index: Callable[[], VectorIndex],
        settings: RouterSettings,
        executor: Executor,
        index_of: Callable[[str], VectorIndex] | None = None,
    ) -> None:
        """`index_of` gives the index of an embedder: while one embedder takes another's place, both may answer."""
        self._models, self._index, self._settings, self._executor = models, index, settings, executor
        self._index_of = index_of

    async def search(
        self, request: SearchRequest, request_id: str, deadline: Deadline, timer: StageTimer | None = None
    ) -> SearchResponse:
        """Find the catalogue items that look most like the subjects of one image.

        A caller's own `timer` holds the stages' times when the search fails as well.

        Raises:
            RequestError: for what the client can mend.
            ServiceError, VectorIndexError: naming the stage that failed; metadata alone may fail, and is then reported
                in `degraded`.
        """
        timer = timer or StageTimer()
        index = self._index()  # held to the end: a version that is swapped in meanwhile serves the next request
        with timer.stage("decode"):
            least_px = self._settings.look_px if _needs_detector(request) else self._settings.crop_px
            image = await self._decode(request, deadline, "decode", least_px, request.box)
        with timer.stage("detect"):
            detections = await self._detect(request, image, deadline)
        subjects = select_subjects(
            detections, request.box, image.size, request.subjects, self._settings.min_detection_score
        )
        with timer.stage("crop"):
            crops = await self._crops(request, image, [subject.box for subject in subjects], deadline)
        descriptions, hits, index = await self._describe_and_look_up(request, crops, index, deadline, timer)
        results = _results(subjects, descriptions, hits)
        best = max(results, key=lambda result: result.hits[0].similarity if result.hits else -1.0)
        return SearchResponse(
            **dict(best),
            request_id=request_id,
            image=image.info,
            detections=detections,
            subjects=results if request.subjects > 1 else None,
            degraded=["describe"] if request.attributes and descriptions is None else [],
            index=index.info,
            timings_ms=timer.timings_ms(),
        )

    async def _detect(self, request: SearchRequest, image: DecodedImage, deadline: Deadline) -> list[Detection]:
        if not _needs_detector(request):
            return []
        work = self._models.detect(image.pixels, deadline)
        found = await deadline.bound("detect", work, self._settings.detect_ms)
        if image.pixels.size == image.size:
            return found
        return [detection.model_copy(update={"box": image.box_from_pixels(detection.box)}) for detection in found]

    async def _crops(
        self, request: SearchRequest, image: DecodedImage, boxes: Sequence[Box], deadline: Deadline
    ) -> list[Image.Image]:
        """Cut the boxes out; for a small one in a large photo the photo is decoded once more, with more pixels."""
        smallest = min(boxes, key=shortest_edge)
        if not image.shows(smallest, self._settings.crop_px):
            image = await self._decode(request, deadline, "crop", self._settings.crop_px, smallest)
        return [image.crop(box) for box in boxes]

    async def _decode(
        self, request: SearchRequest, deadline: Deadline, stage: str, least_px: int, box: Box | None
    ) -> DecodedImage:
        return await self._in_thread(deadline, stage, decode_image, request.image, self._settings.limits, least_px, box)

    async def _describe_and_look_up(
        self,
        request: SearchRequest,
        crops: list[Image.Image],
        index: VectorIndex,
        deadline: Deadline,
        timer: StageTimer,
    ) -> tuple[list[Description] | None, list[list[Hit]], VectorIndex]:
        """Embed; look up in the embedder's own index, and return that as well.

        The descriptions come with the embeddings, or from the metadata model side by side.
        """
        embedding = asyncio.create_task(self._embed(request, crops, deadline, timer))
        describing = asyncio.create_task(self._describe(request, crops, embedding, deadline, timer))
        try:
            embedded = await embedding
            index = self._index_for(embedded, index)
            hits = await self._look_up(request, embedded, index, deadline, timer)
            return await describing, hits, index
        finally:
            describing.cancel()

    async def _embed(
        self, request: SearchRequest, crops: list[Image.Image], deadline: Deadline, timer: StageTimer
    ) -> EmbeddedCrops:
        describe = request.attributes and self._settings.describe_from == "embedder"
        with timer.stage("embed"):
            work = self._models.embed(crops, deadline, describe)
            return await deadline.bound("embed", work, self._settings.embed_ms)

    async def _describe(
        self,
        request: SearchRequest,
        crops: list[Image.Image],
        embedding: "asyncio.Task[EmbeddedCrops]",
        deadline: Deadline,
        timer: StageTimer,
    ) -> list[Description] | None:
        """Return the descriptions, or None when they were not asked for or cannot be had: hits matter more."""
        if not request.attributes:
            return None
        try:
            if self._settings.describe_from == "embedder":
                descriptions = (await asyncio.shield(embedding)).descriptions
                if descriptions is not None:
                    return descriptions
            with timer.stage("describe"):
                work = self._models.describe_crops(crops, deadline)
                return await deadline.bound("describe", work, self._settings.describe_ms)
        except ServiceError:
            return None

    def _index_for(self, embedded: EmbeddedCrops, index: VectorIndex) -> VectorIndex:
        """Return `index`, or in its place the one that was built with the embedder that made these embeddings.

        Raises:
            IndexMismatch: there is none: embeddings of two embedders are never compared.
        """
        if embedded.fingerprint != index.manifest.fingerprint and self._index_of is not None:
            index = self._index_of(embedded.fingerprint)
        built_with = index.manifest.fingerprint
        if embedded.fingerprint != built_with:
            raise IndexMismatch(
                f"index {index.info.version} was built with embedder {built_with}, "
                f"but embedder {embedded.fingerprint} is being served"
            )
        return index

    async def _look_up(
        self, request: SearchRequest, embedded: EmbeddedCrops, index: VectorIndex, deadline: Deadline, timer: StageTimer
    ) -> list[list[Hit]]:
        with timer.stage("lookup"):
            return await self._in_thread(deadline, "lookup", _nearest_hits, index, embedded.embeddings, request)

    async def _in_thread(self, deadline: Deadline, stage: str, function: Callable[..., T], *args: object) -> T:
        work = asyncio.get_running_loop().run_in_executor(self._executor, function, *args)
        return await deadline.bound(stage, work, self._settings.lookup_ms if stage == "lookup" else None)


def _needs_detector(request: SearchRequest) -> bool:
    return request.crop != "none" and request.box is None


def _nearest_hits(index: VectorIndex, embeddings: NDArray[np.float32], request: SearchRequest) -> list[list[Hit]]:
    """Look up, by way of the items that the client likes and does not; what it does not like is no hit."""
    if request.like or request.unlike:
        embeddings = moved_queries(embeddings, index.embeddings_of(request.like), index.embeddings_of(request.unlike))
    unliked = set(request.unlike)
    found = index.search(embeddings, request.top_k + len(unliked), request.filters, request.min_similarity)
    return [[hit for hit in hits if hit.item_id not in unliked][: request.top_k] for hits in found]


def _results(
    subjects: list[Subject], descriptions: list[Description] | None, hits: list[list[Hit]]
) -> list[SubjectResult]:
    described: Sequence[Description | None] = descriptions or [None] * len(subjects)
    return [
        SubjectResult(
            subject=subject,
            attributes=description.attributes if description else None,
            product_display_name=description.product_display_name if description else None,
            hits=found,
        )
        for subject, description, found in zip(subjects, described, hits, strict=True)
    ]
