"""`GET /items/{item_id}/thumbnail`: a catalogue picture, small, from the cache or made now."""

import asyncio
import hashlib
import io
from concurrent.futures import Executor

from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from lookalike.errors import ImageGone, InvalidOption, LookalikeError, Overloaded, few
from lookalike.gateway.context import RequestContext
from lookalike.gateway.index_view import IndexView, ReadableFiles
from lookalike.gateway.metrics import GatewayMetrics
from lookalike.gateway.settings import GatewaySettings
from lookalike.gateway.thumbnail_cache import ThumbnailCache
from lookalike.images import decode_image
from lookalike.index.items import ItemRecord
from lookalike.options import query_fields

EDGES_PX = (64, 128, 256, 512, 1024)  # a free choice would fill the cache with copies
_DEFAULT_EDGE_PX = 256
_QUALITY = 82
_MAX_WAITING = 256
CACHE_CONTROL = "private, max-age=300"  # an item may be replaced; then the ETag differs


class Thumbnails:
    """Makes and keeps thumbnails, in a few threads."""

    def __init__(
        self,
        settings: GatewaySettings,
        view: IndexView,
        files: ReadableFiles,
        executor: Executor,
        metrics: GatewayMetrics,
    ) -> None:
        self._settings, self._view, self._files = settings, view, files
        self._executor, self._metrics = executor, metrics
        self._cache = ThumbnailCache(settings.cache_dir, settings.cache_bytes)
        self._waiting = 0

    async def reply(self, request: Request, context: RequestContext, item_id: str) -> Response:
        """Answer with the picture, or 304 where the client has it."""
        edge_px = _edge_in(query_fields(request.scope["query_string"]))
        kind = "webp" if "image/webp" in context.headers.get("accept", "") else "jpeg"
        if self._waiting >= _MAX_WAITING:
            raise Overloaded("too many pictures are being made")
        self._waiting += 1
        try:
            etag = f'"{context.headers.get("if-none-match", "")}"'
            name, data = await asyncio.get_running_loop().run_in_executor(
                self._executor, self._find, item_id, edge_px, kind, context.headers.get("if-none-match", "")
            )
        finally:
            self._waiting -= 1
        etag = f'"{name}"'
        headers = {"etag": etag, "cache-control": CACHE_CONTROL, "vary": "accept"}
        if data is None:
            return Response(status_code=304, headers=headers)
        return Response(data, headers=headers, media_type=f"image/{kind}")

    def can_show(self, item_id: str, edge_px: int) -> bool:
        """Tell whether the item has a picture that can be made, which then lies in the cache."""
        try:
            self._find(item_id, edge_px, "webp", "")
        except LookalikeError:
            return False
        return True

    def _find(self, item_id: str, edge_px: int, kind: str, known: str) -> tuple[str, bytes | None]:
        """Return the picture's name, which is its ETag, and its bytes; None where the client names it as known."""
        record = self._view.item(item_id)
        name = f"{record.content_sha256.hex()}-{edge_px}.{kind}"
        if name in known:
            return name, None
        data = self._cache.get(name)
        self._metrics.thumbnails.labels("made" if data is None else "cache").inc()
        if data is None:
            data = self._make(record, edge_px, kind)
            self._cache.put(name, data)
        return name, data

    def _make(self, record: ItemRecord, edge_px: int, kind: str) -> bytes:
        encoded = self._files.read(record, self._settings.limits.max_bytes)
        if hashlib.sha256(encoded).digest() != record.content_sha256:
            # What is kept under a digest must be of that content.
            raise ImageGone(f"the image of item {record.item_id[:200]!r} was changed since it was indexed")
        image = decode_image(encoded, self._settings.limits).pixels
        image.thumbnail((edge_px, edge_px), Image.Resampling.LANCZOS, reducing_gap=3.0)
        buffer = io.BytesIO()
        image.save(buffer, kind.upper(), quality=_QUALITY)
        return buffer.getvalue()


def _edge_in(fields: dict[str, str]) -> int:
    if unknown := sorted(fields.keys() - {"edge"}):
        raise InvalidOption(f"unknown options: {few(unknown)}", allowed=["edge"])
    text = fields.get("edge", str(_DEFAULT_EDGE_PX))
    if text not in map(str, EDGES_PX):
        raise InvalidOption(f"edge is {text[:20]!a}", allowed=[str(edge) for edge in EDGES_PX])
    return int(text)
