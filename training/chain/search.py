"""Runs query photos through the search pipeline in this process, in every way of choosing what is searched."""

import asyncio
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.boxes import box_iou
from lookalike.catalogue import Catalogue
from lookalike.clients import LocalModelClient
from lookalike.config import IndexSettings, ModelSettings, RouterSettings
from lookalike.detection import Detector
from lookalike.embedding import Embedder
from lookalike.errors import SetupError
from lookalike.image_embedder import WholeImageEmbedder
from lookalike.index.edits import IndexEditor
from lookalike.index.faiss_index import FaissIndex, open_index
from lookalike.ingest import IngestOptions
from lookalike.pipeline import SearchPipeline
from lookalike.progress import progress_shown
from lookalike.schemas import MAX_TOP_K, Box, Hit, SearchRequest, SearchResponse
from lookalike.stage_timer import Deadline
from training.chain.sets import ChainQuery, ChainSet

# What is searched of a photo; `candidates` are the detector's best boxes, and each item keeps its best similarity.
WHOLE, AUTOCROP, CLIENT_BOX = "whole image", "autocrop", "client's box"
_NO_LIMIT_MS = 3_600_000.0  # a measurement on a busy machine must not end in a timeout


@dataclass(frozen=True)
class Models:
    """The models of the chain, loaded."""

    detector: Detector
    embedder: Embedder
    whole: WholeImageEmbedder


@dataclass(frozen=True)
class Ranking:
    """Item_ids, the most similar first, and the similarity of each."""

    items: list[str]
    similarities: list[float]


@dataclass(frozen=True)
class Answer:
    """What the chain made of one query: a ranking for each way, the boxes that it searched, the IoU of the best box."""

    query: ChainQuery
    rankings: dict[str, Ranking]
    boxes: list[Box]
    iou: float | None


def load_models(models: Path, threads: int) -> Models:
    """Load the built detector and embedder.

    Raises:
        SetupError: when one is not built.
    """
    settings = ModelSettings.load({"threads": threads})
    whole = WholeImageEmbedder.load(models / "embedder", settings)
    return Models(Detector.load(models / "detector", settings), Embedder.load(models / "embedder", settings), whole)


def build_index(catalogue: Catalogue, models: Models, folder: Path) -> FaissIndex:
    """Build the catalogue's index in `folder`; embeddings that it has already are used again.

    Raises:
        SetupError: when a picture of the catalogue cannot be read: the figures would not be those of the set.
    """
    edit = IndexEditor(folder, IndexSettings.load(), IngestOptions(duplicates="keep")).build(catalogue, models.whole)
    unreadable = [problem for problem in edit.problems if problem.kind == "unreadable"]
    if unreadable:
        raise SetupError("\n".join(f"{problem.path}: {problem.reason}" for problem in unreadable))
    return open_index(folder)


def candidate_counts(candidates: int) -> list[int]:
    """Return the numbers of candidate boxes that are compared, besides one."""
    return sorted({count for count in (2, 3, candidates) if 1 < count <= candidates})


def search_set(
    chain_set: ChainSet, index: FaissIndex, models: Models, candidates: int, min_score: float
) -> list[Answer]:
    """Return the chain's answers to the set's queries, in order."""
    limits = dict.fromkeys(("deadline_ms", "detect_ms", "embed_ms", "lookup_ms"), _NO_LIMIT_MS)
    settings = RouterSettings.load({**limits, "min_detection_score": min_score})
    with ThreadPoolExecutor(1) as networks, ThreadPoolExecutor(1) as others:
        # No query asks for attributes, so there is nothing to describe with.
        client = LocalModelClient(models.detector, models.embedder, None, networks, min_score)  # type: ignore[arg-type]
        pipeline = SearchPipeline(client, lambda: index, settings, others)
        return asyncio.run(_search_all(pipeline, chain_set, candidates))


async def _search_all(pipeline: SearchPipeline, chain_set: ChainSet, candidates: int) -> list[Answer]:
    answers = []
    with progress_shown(chain_set.name, len(chain_set.queries)) as advance:
        for query in chain_set.queries:
            answers.append(await _answer(pipeline, query, candidates))
            advance(1)
    return answers


async def _answer(pipeline: SearchPipeline, query: ChainQuery, candidates: int) -> Answer:
    image = query.path.read_bytes()

    async def search(**options: object) -> SearchResponse:
        request = SearchRequest(image=image, top_k=MAX_TOP_K, attributes=False, filters=query.filters or {}, **options)
        return await pipeline.search(request, query.path.name, Deadline(_NO_LIMIT_MS))

    whole = await search(crop="none")
    cropped = await search(subjects=candidates)
    # The whole image, which comes last, is counted apart; it stands for the crop where nothing is found.
    subjects = [one for one in cropped.subjects or [cropped] if one.subject.source == "detector"] or [whole]
    each = [subject.hits for subject in subjects]
    rankings = {WHOLE: merged([whole.hits]), AUTOCROP: merged(each[:1])}
    for count in candidate_counts(candidates):
        rankings[f"{count} candidates"] = merged(each[:count])
    rankings["autocrop + whole image"] = merged([*each[:1], whole.hits])
    rankings[f"{candidates} candidates + whole image"] = merged([*each, whole.hits])
    if query.box is not None:
        rankings[CLIENT_BOX] = merged([(await search(box=query.box)).hits])
    boxes = [subject.subject.box for subject in subjects]
    iou = None if query.box is None else float(box_iou(np.array([boxes[0]]), np.array([query.box]))[0, 0])
    return Answer(query, rankings, boxes, iou)


def merged(results: Iterable[list[Hit]]) -> Ranking:
    """Return one ranking of several results: each item with its best similarity."""
    best: dict[str, float] = {}
    for hits in results:
        for hit in hits:
            best[hit.item_id] = max(hit.similarity, best.get(hit.item_id, -1.0))
    items = sorted(best, key=lambda item: -best[item])
    return Ranking(items, [best[item] for item in items])


def relevance(answers: list[Answer], way: str) -> NDArray[np.bool_]:
    """Return `(q, n)` bool: whether the j-th item of query i's ranking is right; short rankings are padded."""
    width = max(len(answer.rankings[way].items) for answer in answers)
    rows = np.zeros((len(answers), width), np.bool_)
    for row, answer in zip(rows, answers, strict=True):
        items = answer.rankings[way].items
        row[: len(items)] = [item in answer.query.relevant for item in items]
    return rows
