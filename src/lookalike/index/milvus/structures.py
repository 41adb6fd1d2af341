"""Milvus's search structures for this package's kinds: flat, hnsw and ivf."""

from typing import TYPE_CHECKING, Any

from lookalike.config import IndexSettings
from lookalike.index.ivf import FILTERED_PROBES_EXPONENT, lists_for
from lookalike.index.manifest import Manifest
from lookalike.index.milvus.rows import EMBEDDING

if TYPE_CHECKING:
    from pymilvus.milvus_client.index import IndexParams

METRIC = "IP"  # of embeddings of length 1: the cosine, without another division that would alter the last digits
_MOST_EF = 32_768
_MOST_LISTS = 65_536
_LEAST_SHARE = 1e-9


def structure_params(manifest: Manifest, count: int, defaults: IndexSettings) -> "IndexParams":
    """Return how Milvus shall build the structure of `manifest`'s kind for about `count` items."""
    from pymilvus import MilvusClient

    build = manifest.build
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "flat": ("FLAT", {}),
        "hnsw": (
            "HNSW",
            {
                "M": build.hnsw_m or defaults.hnsw_m,
                "efConstruction": build.ef_construction or defaults.ef_construction,
            },
        ),
        "ivf": ("IVF_FLAT", {"nlist": lists_for(count)}),
    }
    name, params = kinds[manifest.kind]
    wanted = MilvusClient.prepare_index_params()
    wanted.add_index(EMBEDDING, index_type=name, metric_type=METRIC, params=params)
    return wanted


def search_params(manifest: Manifest, settings: IndexSettings, top_k: int, share: float = 1.0) -> dict[str, Any]:
    """Return how widely a search for `top_k` hits looks, where this `share` of the items qualifies.

    Lists are widened for a narrow filter as FAISS's are; a graph Milvus widens by itself.
    """
    if manifest.kind == "hnsw":
        return {"ef": min(_MOST_EF, max(settings.ef_search, top_k))}
    if manifest.kind == "ivf":
        return {
            "nprobe": min(_MOST_LISTS, int(settings.ivf_probes / max(share, _LEAST_SHARE) ** FILTERED_PROBES_EXPONENT))
        }
    return {}


def thorough_params(manifest: Manifest) -> dict[str, Any]:
    """Return the widest search that there is."""
    if manifest.kind == "hnsw":
        return {"ef": _MOST_EF}
    return {"nprobe": _MOST_LISTS} if manifest.kind == "ivf" else {}
