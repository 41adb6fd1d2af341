"""The search router, for TorchServe: crop, embed, describe, look up."""

from typing import Any

from lookalike import ts_adapter
from lookalike.config import RouterSettings
from lookalike.search_service import SearchService


class SearchHandler:
    """Connects to the models and the index, then answers batches of searches."""

    def initialize(self, context: Any) -> None:
        """Start the router; models and index may come later: `healthz` tells what is missing."""
        ts_adapter.start_logging()
        service = SearchService(ts_adapter.settings_of(context, RouterSettings))
        self.adapter = ts_adapter.Adapter(service, context)

    def handle(self, rows: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Return one body a row, with the row's own status."""
        return self.adapter.answer(rows, context)
