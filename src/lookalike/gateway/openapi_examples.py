"""One example for each message of the OpenAPI document; a test holds them against the schemas."""

from typing import Any

_ATTRIBUTE = {"name": "articleType", "label": "Casual Shoes", "score": 0.31, "sure": False}
_DETECTION = {"box": [212.4, 150.1, 640.9, 598.0], "score": 0.71, "label": "subject"}
_IMAGE = {"width": 1200, "height": 900, "format": "JPEG"}
_INDEX = {"version": "000003-1f0c77aa", "count": 802, "kind": "flat"}
_VERSION, _FINGERPRINT = _INDEX["version"], "8d969eef6ecad3c2"
_HIT = {
    "item_id": "animals/cat.png",
    "similarity": 0.83,
    "title": "A cat.",
    "attributes": {"category": "animals"},
}
_ITEM = {
    "item_id": "animals/cat.png",
    "title": "A cat.",
    "attributes": {"category": "animals"},
    "path": "/srv/photos/animals/cat.png",
    "content_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}
_SNAPSHOT = {"name": "before-sale", "version": _VERSION, "count": 802, "bytes": 1_812_480}
_TINY_IMAGE = "R0lGODlhAQABAIAAAP8AAP///yH5BAAAAAAALAAAAAABAAEAAAICRAEAOw=="

# Options that are structures, as they stand in a query string.
STRUCTURES = {
    "box": "120,80,560,470",
    "filters": '{"category": ["animals"]}',
    "like": '["animals/cat.png"]',
    "unlike": '["animals/dog.png"]',
}

EXAMPLES: dict[str, Any] = {
    "SearchResponse": {
        "subject": {**_DETECTION, "source": "detector"},
        "attributes": [_ATTRIBUTE],
        "hits": [_HIT],
        "request_id": "0d4c7a1e",
        "image": _IMAGE,
        "detections": [_DETECTION],
        "degraded": [],
        "index": _INDEX,
        "timings_ms": {"decode": 9.1, "detect": 31.0, "crop": 0.4, "embed": 17.5, "lookup": 0.6, "total": 61.2},
    },
    "DetectorResponse": {"detections": [_DETECTION], "image": _IMAGE},
    "EmbedderResponse": {"embeddings": [[0.6, -0.8]], "dim": 2, "fingerprint": _FINGERPRINT},
    "MetadataResponse": {"descriptions": [{"attributes": [_ATTRIBUTE]}]},
    "LabelResponse": {"label": "ants", "score": 0.99196, "sure": True, "scores": {"ants": 0.99196, "bees": 0.00804}},
    "IndexInfo": _INDEX,
    "ModelInfo": {
        "name": "embedder",
        "version": "1.0",
        "fingerprint": _FINGERPRINT,
        "preprocess": {"height_px": 224, "width_px": 224, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        "dim": 512,
        "labels": [],
    },
    "Health": {"ready": True, "checks": {"server": "ok", "index": "ok", "search": "ok"}, "index": _INDEX},
    "ErrorResponse": {
        "error": {
            "code": "invalid_option",
            "message": "top_k: Input should be greater than or equal to 1",
            "allowed": ["top_k", "crop", "box"],
        },
        "request_id": "0d4c7a1e",
    },
    "ImageBody": {"image": _TINY_IMAGE},
    "SearchBody": {"image": _TINY_IMAGE, "top_k": 5, "filters": {"category": ["animals", "food"]}},
    "DetectorBody": {"image": _TINY_IMAGE, "min_score": 0.3},
    "ItemPut": {"item_id": "shoe-1", "image": _TINY_IMAGE, "title": "Red shoe", "attributes": {"colour": "red"}},
    "ItemWords": {"image": _TINY_IMAGE, "title": "Red shoe", "attributes": {"colour": "red"}},
    "ItemBatch": {"put": [{"item_id": "shoe-1", "image": _TINY_IMAGE}], "delete": ["shoe-0"]},
    "CatalogueItem": _ITEM,
    "ItemsPage": {"version": _VERSION, "count": 802, "items": [_ITEM], "next_cursor": "WyIwMDAwMDMiLCAxXQ"},
    "SampleItems": {
        "version": _VERSION,
        "samples": [
            {
                "item_id": "animals/cat.png",
                "title": "A cat.",
                "thumbnail": "/items/animals%2Fcat.png/thumbnail?edge=128",
                "picture": "/items/animals%2Fcat.png/thumbnail?edge=1024",
            }
        ],
    },
    "ItemEdited": {"item_id": "shoe-1", "outcome": "added", "version": _VERSION},
    "ItemsEdited": {
        "version": _VERSION,
        "results": [
            {"item_id": "shoe-1", "outcome": "added"},
            {
                "item_id": "shoe-0",
                "outcome": "refused",
                "error": {"code": "unknown_item", "message": "the index has no such item"},
            },
        ],
    },
    "IndexState": {
        **_INDEX,
        "created": "2026-01-31T12:00:00+00:00",
        "embedder": "efficientnet_lite0 1.0",
        "fingerprint": _FINGERPRINT,
        "dim": 512,
        "attributes": ["category"],
        "versions": [_VERSION],
        "serving": _INDEX,
    },
    "SnapshotRequest": {"name": "before-sale"},
    "SnapshotInfo": _SNAPSHOT,
    "SnapshotList": {"snapshots": [_SNAPSHOT]},
}
