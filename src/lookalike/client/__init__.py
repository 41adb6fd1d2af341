"""The Python client: `Client` and `AsyncClient`, the messages of `lookalike.schemas`, the errors of `lookalike.errors`.

It needs the extra `client` and none of the models' libraries.
"""

from lookalike.client.clients import AsyncClient, Client
from lookalike.client.flows import Embeddings, TwoTrip
from lookalike.client.images import ImageLike
from lookalike.client.retries import RetryPolicy

__all__ = ["AsyncClient", "Client", "Embeddings", "ImageLike", "RetryPolicy", "TwoTrip"]
