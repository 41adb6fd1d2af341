"""Handlers loaded through TorchServe's own loader, answering rows with TorchServe's own request and context classes."""

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONFIG_FILE = "model-config.yaml"

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TorchServe's imports leave files open and use pkg_resources
    from ts.context import RequestProcessor
    from ts.model_loader import TsModelLoader


@dataclass
class Answer:
    """One row's reply as TorchServe would send it."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class LoadedHandler:
    """A handler behind TorchServe's loader."""

    def __init__(self, name: str, model_dir: Path, handler_file: str, config_file: Path) -> None:
        config = yaml.safe_load(config_file.read_text())
        self._context: Any = None
        loader = TsModelLoader()
        # The context exists only inside `load`: the config is what the worker would have read from the archive.
        original = loader._get_class_entry_point

        def with_config(module: Any) -> Any:
            handle, initialize = original(module)

            def initialize_with_config(context: Any) -> None:
                context.model_yaml_config = config
                initialize(context)

            return handle, initialize_with_config

        loader._get_class_entry_point = with_config
        self._service = loader.load(name, str(model_dir), handler_file, None, 8)

    def predict(self, rows: Sequence[tuple[Mapping[str, Any], Mapping[str, str]]]) -> list[Answer]:
        """Answer rows given as (row, headers)."""
        context = self._service.context
        context.request_ids = {i: f"request-{i}" for i in range(len(rows))}
        processors = [RequestProcessor(dict(headers)) for _, headers in rows]
        context.request_processor = processors
        bodies = self._service._entry_point([dict(row) for row, _ in rows], context)
        return [
            Answer(p.get_response_status_code(), p.get_response_headers(), body)
            for p, body in zip(processors, bodies, strict=True)
        ]

    def post(self, body: Any, **headers: str) -> Answer:
        """Answer one request with a raw body, or a parsed JSON one; `x_request_id` stands for `x-request-id`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        (answer,) = self.predict([({"body": body}, named)])
        return answer

    def get(self, path: str) -> Answer:
        """Answer a GET of `/predictions/<model>/<version>/<path>`."""
        (answer,) = self.predict([({}, {"url_path": path})])
        return answer


@pytest.fixture(scope="session")
def load_handler() -> Iterator[Callable[[str], LoadedHandler]]:
    """Load a handler by its model's name, once a session."""
    sys.path.insert(0, str(ROOT / "handlers"))
    loaded: dict[str, LoadedHandler] = {}

    def load(name: str) -> LoadedHandler:
        model_dir = ROOT / "var/models" / name
        if name != "search" and not (model_dir / "model.json").exists():
            pytest.fail(f"{model_dir} is not built: run `make models`")
        if name not in loaded:
            handler_file = yaml.safe_load((ROOT / "model_store/models.yaml").read_text())["models"][name]["handler"]
            loaded[name] = LoadedHandler(name, model_dir, handler_file, ROOT / "model_store" / name / CONFIG_FILE)
        return loaded[name]

    yield load
    sys.path.remove(str(ROOT / "handlers"))
