"""The whole search in one process: the project's pipeline, models and index, as each peer serves them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from pydantic_settings import SettingsConfigDict

from lookalike.clients import MODEL_NAMES, LocalModelClient
from lookalike.config import IndexSettings, ModelSettings, RouterSettings, Settings
from lookalike.index.faiss_index import open_index
from lookalike.pipeline import SearchPipeline
from lookalike.rows import json_reply
from lookalike.schemas import SearchRequest
from lookalike.stage_timer import Deadline

PATH = "/search"
JSON_TYPE = "application/json"


class PeerSettings(Settings):
    """What a peer's server is told by whoever starts it (environment prefix `LOOKALIKE_PEER_`)."""

    model_config = SettingsConfigDict(env_prefix="LOOKALIKE_PEER_")

    host: str = "127.0.0.1"
    port: int
    workers: int  # processes, each with the whole chain
    threads: int  # of one forward pass in one worker
    models: Path  # the folder of built models
    index_dir: Path
    run_dir: Path  # for whatever the server wants to write


class Chain:
    """Decode, detect, crop, embed and describe, look up; `search` may be awaited several times at once."""

    def __init__(self, settings: PeerSettings) -> None:
        router, folders = RouterSettings(), [settings.models / name for name in MODEL_NAMES]
        model = ModelSettings(runtime="onnx", device="cpu", threads=settings.threads)
        executor = ThreadPoolExecutor(router.threads, thread_name_prefix="search")  # as many as the router has
        client = LocalModelClient.load(*folders, model, executor, router.min_detection_score)
        index = open_index(settings.index_dir, IndexSettings())
        self._pipeline = SearchPipeline(client, lambda: index, router, executor)
        self._deadline_ms = router.deadline_ms

    async def search(self, photo: bytes) -> bytes:
        """Search once; return the same JSON as `POST /predictions/search`."""
        response = await self._pipeline.search(SearchRequest(image=photo), uuid4().hex, Deadline(self._deadline_ms))
        return json_reply(response).body
