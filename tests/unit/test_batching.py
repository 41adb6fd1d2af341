"""The frame of a model server: the time that a client gives its request."""

import time

import numpy as np
import pytest

from lookalike.batching import ModelInput, ModelService
from lookalike.preprocessing import Preprocess
from lookalike.rows import DEADLINE_HEADER, Reply, Row
from lookalike.schemas import ModelInfo, Wire


class SlowReader(ModelService[int]):
    """Takes 50 ms to read a row and counts what reaches its network."""

    def __init__(self) -> None:
        preprocess = Preprocess(height_px=8, width_px=8, mean=(0, 0, 0), std=(1, 1, 1))
        self.info, self.ran = ModelInfo(name="m", version="1", fingerprint="a" * 16, preprocess=preprocess), 0

    def read(self, row: Row) -> ModelInput:
        time.sleep(0.05)
        return ModelInput(np.zeros((1, 8, 8, 3), np.uint8), [], Wire())

    def run(self, inputs: list[ModelInput]) -> list[int]:
        self.ran += len(inputs)
        return [0] * len(inputs)

    def reply(self, row: Row, given: ModelInput, result: int) -> Reply:
        return Reply(200, b"{}")


def test_a_row_whose_time_has_passed_is_not_sent_through_the_network() -> None:
    service = SlowReader()
    asked = ["60", "0", "nan", "soon", "5000", None]
    rows = [Row("r", headers={} if ms is None else {DEADLINE_HEADER: ms}) for ms in asked]
    assert [reply.status for reply in service.respond(rows)] == [504, 504, 504, 422, 200, 200]
    assert service.ran == 2


def test_a_batch_that_fails_is_logged_with_its_request_ids(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(SlowReader):
        def run(self, inputs: list[ModelInput]) -> list[int]:
            raise RuntimeError("out of memory")

    assert [reply.status for reply in Broken().respond([Row("first"), Row("second")])] == [503, 503]
    assert "first, second" in caplog.text
