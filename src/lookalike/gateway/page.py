"""The page: the files of one folder, with the headers that caches need."""

import os

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from lookalike.gateway.context import context_of

_FRESH = "no-cache"  # asked again each time, by ETag: an update is seen at once and nothing is sent twice


class Page(StaticFiles):
    """Serves the folder `web/`; a link out of it leads nowhere."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file; raises HTTPException 404 or 405."""
        context_of(scope).route = "/"
        return await super().get_response(path, scope)

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Return a file with its cache headers."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["cache-control"] = _FRESH
        return response
