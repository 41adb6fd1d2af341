"""`GET /openapi.json`: the document, with the label tasks that are served at the moment."""

import json
from functools import cache

from starlette.requests import Request
from starlette.responses import Response

from lookalike.gateway.context import context_of
from lookalike.gateway.label_tasks import LabelTasks, ServedTask
from lookalike.gateway.openapi import document
from lookalike.rows import JSON_TYPE


class OpenApi:
    """Answers with the document; open to everybody, as it says only what can be asked."""

    def __init__(self, tasks: LabelTasks) -> None:
        self._tasks = tasks

    async def show(self, request: Request) -> Response:
        """Answer `GET /openapi.json`."""
        context = context_of(request.scope)
        context.route = "/openapi.json"
        return Response(_encoded(await self._tasks.served(context.request_id)), media_type=JSON_TYPE)


@cache
def _encoded(tasks: tuple[ServedTask, ...]) -> bytes:
    return json.dumps(document(tasks), separators=(",", ":")).encode()
