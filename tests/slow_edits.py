"""Edits that take a moment, in processes that start within milliseconds: what tests with kill -9 stand on."""

import multiprocessing
import os
import sys
import time
from multiprocessing import forkserver

import numpy as np
import pytest
from numpy.typing import NDArray

from lookalike.config import IndexSettings
from lookalike.ingest import IngestOptions
from tests.colour_embedder import ColourEmbedder

SETTINGS = IndexSettings(chunk_items=4, kind="hnsw", hnsw_m=4, ef_construction=8)
OPTIONS = IngestOptions(batch_images=2)
_BATCH_S = 0.004


class SlowColours(ColourEmbedder):
    """Takes a moment for each batch, so that a kill often meets it half-way."""

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(_BATCH_S)
        return super().embed(pixels)


def processes_with(module: str) -> multiprocessing.context.ForkServerContext:
    """Start processes from one that has imported `module` already."""
    context = multiprocessing.get_context("forkserver")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        context.set_forkserver_preload([module])
        forkserver.ensure_running()
    return context
