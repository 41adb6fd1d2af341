"""Takes the time of a search apart, and holds the parts against the clock outside."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

from PIL import Image

from lookalike.config import RouterSettings
from lookalike.errors import LookalikeError
from lookalike.images import decode_image
from lookalike.preprocessing import Preprocess
from lookalike.schemas import Box

_ROUNDING_MS = 0.1  # of the timers and log lines that are added up
_LOG_S = 10.0
_RESIZES = 5


@dataclass(frozen=True)
class Timed:
    """One search: the clock outside, the response's own timings, and by endpoint what the models' log lines say."""

    request_id: str
    megapixels: float
    photo: int
    attributes: bool
    outside_ms: float
    timings_ms: Mapping[str, float]
    box: Box  # of the subject
    unread_ms: float  # a request with the same photo that the router answers without a look at it, just before
    models_ms: Mapping[str, float] = field(default_factory=dict)
    resizes_ms: "Resizes | None" = None


class Resizes(NamedTuple):
    """What the router spends on a network's input before it calls the model: no timer of its own has it."""

    detect_ms: float
    embed_ms: float


def time_resizes(photo: bytes, box: Box, detector: Preprocess, embedder: Preprocess) -> Resizes:
    """Run the router's own two resizes of a photo in this process; return their medians."""
    router = RouterSettings()
    seen = decode_image(photo, router.limits, router.look_px)
    cut_from = seen if seen.shows(box, router.crop_px) else decode_image(photo, router.limits, router.crop_px, box)
    return Resizes(_median_ms(detector, seen.pixels), _median_ms(embedder, cut_from.crop(box)))


def _median_ms(preprocess: Preprocess, image: Image.Image) -> float:
    elapsed_ms = []
    for _ in range(_RESIZES):
        start_s = time.perf_counter()
        preprocess.fit(image)
        elapsed_ms.append((time.perf_counter() - start_s) * 1000)
    return median(elapsed_ms)


def model_times_ms(log_file: Path, request_ids: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return by request and endpoint the milliseconds in the model's worker, from the server's log.

    Models that the router holds itself (`LOOKALIKE_ROUTER_MODELS=in_process`) write no lines, and have no times here.

    Raises:
        LookalikeError: the lines, which are written behind the replies, do not come.
    """
    wanted, end_s = set(request_ids), time.monotonic() + _LOG_S
    while True:
        found: dict[str, dict[str, float]] = {request_id: {} for request_id in wanted}
        for line in log_file.read_text(errors="replace").splitlines():
            record = json.loads(line)
            if record.get("request_id") in wanted and "endpoint" in record:
                found[record["request_id"]][record["endpoint"]] = record["total_ms"]
        apart = any("detector" in times for times in found.values())
        needed = {"search", "detector", "embedder"} if apart else {"search"}
        lacking = [name for name, times in found.items() if not times.keys() >= needed]
        if not lacking:
            return found
        if time.monotonic() > end_s:
            raise LookalikeError(f"{log_file} lacks lines of {len(lacking)} searches, such as {lacking[0]}")
        time.sleep(0.2)


def stages_ms(timings_ms: Mapping[str, float]) -> float:
    """Return the stages of one search together: `describe`, where it is a stage, runs beside embedding and look-up."""
    t = timings_ms
    return t["decode"] + t["detect"] + t["crop"] + max(t["embed"] + t["lookup"], t.get("describe", 0.0))


def check_order(search: Timed) -> None:
    """Check that what is inside is not longer than what is around it.

    Raises:
        LookalikeError: naming what exceeds what.
    """
    t = search.timings_ms
    pairs = [
        ("the stages", stages_ms(t), "the router's total", t["total"]),
        ("the router's total", t["total"], "the time outside", search.outside_ms),
        *(
            (f"the {model}", search.models_ms[model], f"the stage {stage}", t[stage])
            for model, stage in (("detector", "detect"), ("embedder", "embed"))
            if model in search.models_ms
        ),
    ]
    for inner, inner_ms, outer, outer_ms in pairs:
        if inner_ms > outer_ms + _ROUNDING_MS:
            raise LookalikeError(
                f"{inner} took {inner_ms:.1f} ms, more than {outer}, {outer_ms:.1f} ms: request {search.request_id}"
            )


@dataclass(frozen=True)
class Breakdown:
    """Mean milliseconds of the searches of one size; the parts add up to the time outside."""

    megapixels: float
    outside_ms: float
    parts_ms: dict[str, float]

    @property
    def unexplained_share(self) -> float:
        """The share of the time outside that belongs to no stage and no hop; below zero where they exceed it."""
        return (self.parts_ms["router: the rest"] + self.parts_ms["unexplained"]) / self.outside_ms


def break_down(searches: Sequence[Timed]) -> Breakdown:
    """Return the parts of searches of one size, with attributes and without: the difference is what describing costs.

    Means, because medians of parts do not add up.
    """
    whole = [search for search in searches if search.attributes]
    bare = [search for search in searches if not search.attributes]

    def mean(stage: str, of: Sequence[Timed] = whole) -> float:
        return fmean(search.timings_ms.get(stage, 0.0) for search in of)

    resizes = [search.resizes_ms for search in whole if search.resizes_ms is not None]
    detect_resize, embed_resize = fmean(r.detect_ms for r in resizes), fmean(r.embed_ms for r in resizes)

    def network(model: str, stage: str, resize_ms: float, of: Sequence[Timed]) -> float:
        """Return what the model's worker took; in the router itself, what the stage took but for the resize."""
        apart = all(model in search.models_ms for search in of)
        return fmean(search.models_ms[model] for search in of) if apart else mean(stage, of) - resize_ms

    detect = network("detector", "detect", detect_resize, whole)
    embed = network("embedder", "embed", embed_resize, bare)
    described = network("embedder", "embed", embed_resize, whole)
    stages, outside_ms = fmean(stages_ms(s.timings_ms) for s in whole), fmean(s.outside_ms for s in whole)
    beside = stages - mean("decode") - mean("detect") - mean("crop") - mean("embed") - mean("lookup")
    unread_ms = fmean(search.unread_ms for search in whole)
    parts = {
        "decode": mean("decode"),
        "detect: resize": detect_resize,
        "detect: network": detect,
        "crop": mean("crop"),
        "embed: resize": embed_resize,
        "embed: network": embed,
        "describe": described - embed + beside,
        "look up": mean("lookup"),
        "two hops": mean("detect") - detect - detect_resize + mean("embed") - described - embed_resize,
        "router: the rest": mean("total") - stages,
        "outside of the router": unread_ms,
        "unexplained": outside_ms - mean("total") - unread_ms,
    }
    return Breakdown(whole[0].megapixels, outside_ms, parts)
