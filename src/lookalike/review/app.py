"""The review's own small server, for one person on this machine: the page, the cases, their pictures, the decisions."""

import io
import math
from functools import lru_cache
from pathlib import Path

from PIL import Image
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lookalike.config import ImageLimits
from lookalike.errors import InvalidOption, InvalidRequest, LookalikeError, UnknownPath, wrong_fields
from lookalike.images import decode_image
from lookalike.review.cases import Source
from lookalike.review.journal import Decision, Journal
from lookalike.review.looks import Looks

_EDGE_PX = 320
_KEPT_PICTURES = 4096
_SIMILARITY = 0.95  # of near-duplicates, unless the page asks for another
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class _Decided(BaseModel, extra="forbid"):
    """The body of `POST /decisions`: the numbers of cases, and what is decided of them."""

    cases: list[int]
    decision: Decision


class OnlyHere:
    """Lets only pages of this very server in: a foreign page could else read or change files through the browser.

    The name in `Host` must be a loopback's (a foreign name may resolve to 127.0.0.1), `Origin` must be this server.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 to others, and add the security headers to every answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            await send(message)

        if host.rsplit(":", 1)[0] not in ("127.0.0.1", "localhost", "[::1]") or origin not in (None, f"http://{host}"):
            await _error(403, "forbidden", "the review answers pages of its own only")(scope, receive, send_safely)
        else:
            await self._app(scope, receive, send_safely)


class Review:
    """The endpoints around one source."""

    def __init__(self, source: Source, looks: Looks) -> None:
        """Open the source's journal; `looks` knows the embeddings of its cases, in their order.

        Raises:
            SetupError: the journal is damaged.
        """
        self._source, self._journal, self._looks = source, Journal(source.journal_file), looks
        self._picture = lru_cache(_KEPT_PICTURES)(_thumbnail)

    def app(self, web_dir: Path) -> Starlette:
        """Return the app; `web_dir` holds the page."""
        routes = [
            Route("/cases", self._show_cases),
            Route("/cases/{number:int}/picture", self._show_picture),
            Route("/decisions", self._show_decisions),
            Route("/decisions", self._decide, methods=["POST"]),
            Route("/undo", self._undo, methods=["POST"]),
            Route("/redo", self._redo, methods=["POST"]),
            Route("/export", self._export, methods=["POST"]),
            Route("/looks", self._show_looks),
            Route("/looks/near-duplicates", self._show_near_duplicates),
            Route("/looks/map", self._show_map),
            Route("/looks/dimensions/{dimension:int}", self._show_dimension),
            Route("/", lambda request: _page(web_dir), methods=["GET"]),
            Mount("/", StaticFiles(directory=web_dir)),
        ]
        handlers = {LookalikeError: _told}
        return Starlette(routes=routes, middleware=[Middleware(OnlyHere)], exception_handlers=handlers)

    async def _show_cases(self, request: Request) -> Response:
        cases = [
            {
                "name": case.name,
                "label": case.label,
                "guess": case.guess,
                "score": round(case.score, 3),
                "why": case.why,
                "place": case.place,
            }
            for case in self._source.cases
        ]
        return JSONResponse({"name": self._source.name, "labels": self._source.labels, "cases": cases})

    async def _show_picture(self, request: Request) -> Response:
        case = self._source.cases[self._checked([request.path_params["number"]])[0]]
        try:
            changed_ns = case.path.stat().st_mtime_ns
            data = await run_in_threadpool(self._picture, case.path, changed_ns)
        except OSError as error:
            raise UnknownPath(f"{case.name}: {error.strerror}") from error
        return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    async def _show_decisions(self, request: Request) -> Response:
        return self._state()

    async def _decide(self, request: Request) -> Response:
        try:
            wanted = _Decided.model_validate_json(await request.body())
        except ValidationError as error:
            raise InvalidRequest(wrong_fields(error)) from error
        if wanted.decision.action == "label" and wanted.decision.label not in self._source.labels:
            raise InvalidRequest(f"no label {wanted.decision.label!r}", allowed=self._source.labels)
        names = [self._source.cases[number].name for number in self._checked(wanted.cases)]
        if names:
            await run_in_threadpool(self._journal.decide, names, wanted.decision)
        return self._state()

    async def _undo(self, request: Request) -> Response:
        await run_in_threadpool(self._journal.undo)
        return self._state()

    async def _redo(self, request: Request) -> Response:
        await run_in_threadpool(self._journal.redo)
        return self._state()

    async def _export(self, request: Request) -> Response:
        changed = await run_in_threadpool(self._source.export, self._journal.decisions(), self._journal.touched())
        return JSONResponse({"changed": [str(path) for path in changed]})

    async def _show_looks(self, request: Request) -> Response:
        return JSONResponse({"embedded": self._looks.done, "of": len(self._source.cases)})

    async def _show_near_duplicates(self, request: Request) -> Response:
        text = request.query_params.get("similarity", str(_SIMILARITY))
        try:
            similarity = float(text)
        except ValueError:
            similarity = math.nan
        if not 0 < similarity <= 1:
            raise InvalidOption(f"similarity is {text[:20]!r}", allowed="above 0, at most 1")
        return JSONResponse({"groups": await run_in_threadpool(self._looks.near_duplicates, similarity)})

    async def _show_map(self, request: Request) -> Response:
        return JSONResponse({"positions": await run_in_threadpool(self._looks.positions)})

    async def _show_dimension(self, request: Request) -> Response:
        order = await run_in_threadpool(self._looks.by_dimension, request.path_params["dimension"])
        return JSONResponse({"order": order})

    def _state(self) -> Response:
        decided = self._journal.decisions()
        numbers = {case.name: number for number, case in enumerate(self._source.cases)}
        return JSONResponse(
            {str(numbers[name]): decision.model_dump() for name, decision in decided.items() if name in numbers}
        )

    def _checked(self, numbers: list[int]) -> list[int]:
        count = len(self._source.cases)
        if wrong := [number for number in numbers if not 0 <= number < count]:
            raise UnknownPath(f"no case {wrong[0]}", allowed=f"0 to {count - 1}")
        return numbers


def _thumbnail(path: Path, changed_ns: int) -> bytes:
    """Return a JPEG of an image; `changed_ns` makes a changed file a new one."""
    image = decode_image(path.read_bytes(), ImageLimits(), least_px=_EDGE_PX).pixels
    image.thumbnail((_EDGE_PX, _EDGE_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _page(web_dir: Path) -> Response:
    return Response((web_dir / "review.html").read_bytes(), media_type="text/html")


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, LookalikeError)
    return _error(error.status, error.code, error.message)


def _error(status: int, code: str, message: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status)
