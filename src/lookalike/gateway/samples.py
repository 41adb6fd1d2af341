"""`GET /samples`: a few items of the catalogue that somebody without a photo at hand can search by."""

import asyncio
from concurrent.futures import Executor
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from lookalike.gateway.admission import Admission
from lookalike.gateway.context import context_of
from lookalike.gateway.index_view import IndexView
from lookalike.gateway.replies import message_reply
from lookalike.gateway.settings import GatewaySettings
from lookalike.gateway.thumbnails import CACHE_CONTROL, EDGES_PX, Thumbnails
from lookalike.index.items import ItemRecord
from lookalike.index.snapshot import Snapshot
from lookalike.item_schemas import SampleItem, SampleItems

_PICTURE_PX, _THUMBNAIL_PX = EDGES_PX[-1], 128
_CANDIDATES = 4  # read for each sample that is wanted: pictures may have gone since they were indexed


class Samples:
    """Chooses the samples of an index version once; they are the same for everybody."""

    def __init__(
        self,
        settings: GatewaySettings,
        admission: Admission,
        view: IndexView,
        thumbnails: Thumbnails,
        executor: Executor,
    ) -> None:
        self._count, self._admission, self._view = settings.samples, admission, view
        self._thumbnails, self._executor = thumbnails, executor
        self._chosen: SampleItems | None = None

    async def reply(self, request: Request) -> Response:
        """Answer with the samples, or 304 where the client has them."""
        context = context_of(request.scope)
        context.route = "/samples"
        self._admission.admit(context, "read")
        samples = await asyncio.get_running_loop().run_in_executor(self._executor, self._current)
        etag = f'"{samples.version}-{self._count}"'
        known = etag in context.headers.get("if-none-match", "")
        response = Response(status_code=304) if known else message_reply(samples)
        response.headers.update({"etag": etag, "cache-control": CACHE_CONTROL})
        return response

    def _current(self) -> SampleItems:
        snapshot = self._view.current()
        if self._chosen is None or self._chosen.version != snapshot.manifest.version:
            self._chosen = self._choose(snapshot)
        return self._chosen

    def _choose(self, snapshot: Snapshot) -> SampleItems:
        """Take rows at even distances, which in a catalogue sorted by folder is some of each large one."""
        chosen: list[SampleItem] = []
        for row in spread_rows(snapshot.manifest.count, self._count):
            for record in snapshot.items.page(row, _CANDIDATES):
                if self._thumbnails.can_show(record.item_id, _PICTURE_PX):
                    chosen.append(sample_of(record))
                    break
        unique = {sample.item_id: sample for sample in chosen}
        return SampleItems(version=snapshot.manifest.version, samples=list(unique.values()))


def spread_rows(count: int, wanted: int) -> list[int]:
    """Return `wanted` rows of `count`, or all, each in the middle of its share."""
    wanted = min(count, wanted)
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


def sample_of(record: ItemRecord) -> SampleItem:
    """Return an item as everybody may see it: with the paths of its picture, and nothing of where its file lies."""
    path = f"/items/{quote(record.item_id, safe='')}/thumbnail"
    return SampleItem(
        item_id=record.item_id,
        title=record.title,
        thumbnail=f"{path}?edge={_THUMBNAIL_PX}",
        picture=f"{path}?edge={_PICTURE_PX}",
    )
