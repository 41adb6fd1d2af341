"""The label of an image by a trained task, for TorchServe."""

from typing import Any

from lookalike import ts_adapter
from lookalike.config import ModelSettings
from lookalike.labels import service


class LabelHandler:
    """Loads and warms the task's model, then answers batches of rows."""

    def initialize(self, context: Any) -> None:
        """Load the model from the unpacked archive; a wrong setting or file stops the worker with its name."""
        ts_adapter.start_logging()
        settings = ts_adapter.settings_of(context, ModelSettings)
        loaded = service.load_labels(ts_adapter.model_dir(context), settings)
        self.adapter = ts_adapter.Adapter(loaded, context)

    def handle(self, rows: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Return one body a row, with the row's own status."""
        return self.adapter.answer(rows, context)
