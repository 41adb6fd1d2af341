"""The wire types: what a client sends and what it gets back."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from lookalike.preprocessing import Preprocess

# On the wire, digits beyond what a model can mean are left out.
Pixel = Annotated[float, PlainSerializer(lambda value: round(value, 2))]
Score = Annotated[float, PlainSerializer(lambda value: round(value, 4))]
Similarity = Annotated[float, PlainSerializer(lambda value: round(value, 6))]

# xyxy, absolute pixels of the decoded, EXIF-rotated image; x2 and y2 are exclusive; the origin is top left.
Box = tuple[Pixel, Pixel, Pixel, Pixel]
MAX_ENTRIES, MAX_VALUES = 64, 1000

MAX_TOP_K = 1000
MAX_SUBJECTS = 10
MAX_EXAMPLES = 50


class Wire(BaseModel):
    """A strict, immutable message."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _few_entries(given: object) -> object:
    """Refuse a flood of entries before each of them becomes an error of its own, which costs a kilobyte."""
    if isinstance(given, (dict, list)) and len(given) > MAX_ENTRIES:
        raise ValueError(f"has {len(given)} entries; at most {MAX_ENTRIES} are taken")
    return given


Few = BeforeValidator(_few_entries)
Filters = Annotated[dict[str, Annotated[list[str], Field(max_length=MAX_VALUES)]], Few]


class Asked(Wire):
    """What a client sends."""

    _few = model_validator(mode="before")(_few_entries)


class Detection(Wire):
    """A region that a detector proposes; `score` is the model's confidence in [0, 1]."""

    box: Box
    score: Score
    label: str


class Subject(Wire):
    """The region that is searched, and where it came from."""

    box: Box
    source: Literal["detector", "client", "whole_image"]
    score: Score | None = None
    label: str | None = None


class Attribute(Wire):
    """One attribute of a crop as a metadata classifier sees it; `sure` is false below the attribute's threshold."""

    name: str
    label: str
    score: Score
    sure: bool


class Description(Wire):
    """All attributes of one crop, and a name made of those that are sure."""

    attributes: list[Attribute]
    product_display_name: str | None = None


class Hit(Wire):
    """A catalogue item near the query; `similarity` is the cosine in [-1, 1], bigger is better."""

    item_id: str
    similarity: Similarity
    title: str | None = None
    url: str | None = None
    attributes: dict[str, str] = {}


class SearchOptions(Asked):
    """What a client may ask for besides the image."""

    top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K)] = 10
    crop: Literal["auto", "none"] = "auto"
    box: Box | None = None
    filters: Filters = {}
    min_similarity: Annotated[float, Field(ge=-1, le=1)] | None = None
    attributes: bool = True
    subjects: Annotated[int, Field(ge=1, le=MAX_SUBJECTS)] = 1
    like: Annotated[list[str], Field(max_length=MAX_EXAMPLES)] = []
    unlike: Annotated[list[str], Field(max_length=MAX_EXAMPLES)] = []

    @model_validator(mode="after")
    def _box_excludes_detection(self) -> "SearchOptions":
        if self.box is not None and self.subjects > 1:
            raise ValueError("box names the one subject: it does not go with subjects > 1")
        if self.crop == "none" and self.subjects > 1:
            raise ValueError("crop=none searches the whole image: it does not go with subjects > 1")
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError("box must be [x1, y1, x2, y2] with x1 < x2 and y1 < y2")
        return self


class DetectorOptions(Asked):
    """What a client of the detector may ask for."""

    min_score: Annotated[float, Field(ge=0, le=1)] = 0.15
    max_detections: Annotated[int, Field(ge=1, le=100)] = 20


class EmbedderOptions(Asked):
    """What a client of the embedder may ask for; `describe` adds `descriptions` to an .npz reply."""

    describe: bool = False


class NoOptions(Asked):
    """A model that has no options refuses every one by name."""


class SearchRequest(SearchOptions):
    """One search: the encoded image as it arrived, and its options."""

    image: Annotated[bytes, Field(min_length=1)]


class ImageInfo(Wire):
    """The decoded query: pixels after EXIF rotation, and the format it came in."""

    width: int
    height: int
    format: str


class IndexInfo(Wire):
    """Which index version answered."""

    version: str
    count: int
    kind: str


class SubjectResult(Wire):
    """What one subject found."""

    subject: Subject
    attributes: list[Attribute] | None = None
    product_display_name: str | None = None
    hits: list[Hit]


class SearchResponse(SubjectResult):
    """The best subject's result on top; every subject's under `subjects` when more than one was asked for."""

    request_id: str
    image: ImageInfo
    detections: list[Detection]
    subjects: list[SubjectResult] | None = None
    degraded: list[str] = []
    index: IndexInfo
    timings_ms: dict[str, float]


class DetectorResponse(Wire):
    """What `POST /predictions/detector` returns; boxes in pixels of the image that was sent."""

    detections: list[Detection]
    image: ImageInfo


class EmbedderResponse(Wire):
    """What `POST /predictions/embedder` returns as JSON: `(n, dim)` float32, L2-normalised."""

    embeddings: list[list[float]]
    dim: int
    fingerprint: str


class MetadataResponse(Wire):
    """What `POST /predictions/metadata_creator` returns, one description a crop."""

    descriptions: list[Description]


class LabelResponse(Wire):
    """What `POST /predictions/<task>` returns; `scores` is in the order of the task's labels and sums to 1."""

    label: str
    score: float
    sure: bool
    scores: dict[str, float]


class Likeness(Wire):
    """What a similarity means in words: the least cosine of each, calibrated for one embedder (its model card)."""

    same: Annotated[float, Field(ge=-1, le=1)]
    very_similar: Annotated[float, Field(ge=-1, le=1)]
    similar: Annotated[float, Field(ge=-1, le=1)]

    @model_validator(mode="after")
    def _descends(self) -> "Likeness":
        if not self.same >= self.very_similar >= self.similar:
            raise ValueError("must be in order: same >= very_similar >= similar")
        return self


class ModelInfo(Wire):
    """A model's card, as `GET /predictions/<model>/<version>/info` returns it."""

    name: str
    version: str
    fingerprint: str
    preprocess: Preprocess
    dim: int | None = None
    feature_dim: int | None = None
    labels: list[str] = []
    likeness: Likeness | None = None


class Health(Wire):
    """Whether a model, or the whole chain, is ready: part by part `ok`, or what is wrong; the index in use."""

    ready: bool
    checks: dict[str, str] = {}
    index: IndexInfo | None = None
    open_indexes: dict[str, str] | None = None
    refused_index: str | None = None


class ErrorBody(Wire):
    """What went wrong: a code that stays the same across versions, words for people, and what is allowed instead."""

    code: str
    message: str
    allowed: str | list[str] | None = None


class ErrorResponse(Wire):
    """Every error of every endpoint."""

    error: ErrorBody
    request_id: str | None = None
