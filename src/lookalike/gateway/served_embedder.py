"""The embedder that is served, as an ingest uses it: what is added is embedded by what searches are embedded by."""

from typing import Self

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookalike import rows as wire
from lookalike.errors import IndexMismatch, ModelFailed, ModelUnavailable
from lookalike.schemas import ModelInfo

_TIMEOUT_S = 60.0
_INFO, _EMBED = "/predictions/embedder/1.0/info", "/predictions/embedder"


class ServedEmbedder:
    """An `ImageEmbedder` over HTTP; close it after use."""

    preparation = "whole image"  # as WholeImageEmbedder: both write into the same indexes

    def __init__(self, upstream_url: str, name: str | None = None) -> None:
        """Ask the embedder for its card; `name` is the one that the index knows it by.

        Raises:
            ModelUnavailable, ModelFailed: it does not answer, or not as an embedder.
        """
        self._http = httpx.Client(base_url=upstream_url, timeout=_TIMEOUT_S, trust_env=False)
        try:
            info = ModelInfo.model_validate_json(self._asked("GET", _INFO).content)
        except ValueError as error:
            self.close()
            raise ModelFailed("the embedder has no readable card") from error
        except BaseException:
            self.close()
            raise
        if info.dim is None:
            raise ModelFailed("the model behind /predictions/embedder is no embedder")
        self.name, self.fingerprint, self.dim = name or f"{info.name} {info.version}", info.fingerprint, info.dim
        self._preprocess = info.preprocess

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return the image as one network input `(h, w, 3)`."""
        return self._preprocess.fit(image)

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the embeddings `(n, dim)` of prepared images `(n, h, w, 3)`.

        Raises:
            ModelUnavailable, ModelFailed: it does not answer, or not with embeddings.
            IndexMismatch: another embedder took its place meanwhile.
        """
        headers = {"content-type": wire.NPY_TYPE, "accept": wire.NPY_TYPE}
        reply = self._asked("POST", _EMBED, content=wire.npy_bytes(pixels), headers=headers)
        if reply.headers.get(wire.FINGERPRINT_HEADER) != self.fingerprint:
            raise IndexMismatch("another embedder is served than a moment ago")
        embeddings = wire.array_in(reply.content)
        if embeddings.dtype != np.float32 or embeddings.shape != (len(pixels), self.dim):
            raise ModelFailed("the embedder answered with something else than embeddings")
        return embeddings

    def _asked(self, method: str, path: str, **given: object) -> httpx.Response:
        try:
            reply = self._http.request(method, path, **given)  # type: ignore[arg-type]
        except httpx.HTTPError as error:
            raise ModelUnavailable("the embedder cannot be reached") from error
        if reply.status_code != 200:
            raise ModelFailed(f"the embedder answered {reply.status_code}")
        return reply
