"""The HTTP client of the models: one retry on a broken connection, errors name the stage, cards stay fresh."""

import asyncio
import io
import logging
from collections.abc import AsyncIterator

import numpy as np
import pytest
from aiohttp import web
from PIL import Image

from lookalike.clients import HttpModelClient
from lookalike.config import RouterSettings
from lookalike.errors import DeadlineExceeded, ModelFailed, ModelUnavailable, ServiceError
from lookalike.stage_timer import Deadline
from tests.small_model_server import Answer, SmallServer, breaks_off, hangs_up, refuse, serving

IMAGE = Image.new("RGB", (40, 20), "red")


@pytest.fixture
def server() -> SmallServer:
    return SmallServer()


@pytest.fixture
async def client(server: SmallServer) -> AsyncIterator[HttpModelClient]:
    async with serving(server) as url:
        client = HttpModelClient(RouterSettings(detector_url=url, embedder_url=url, metadata_url=url))
        yield client
        await client.close()


async def test_crops_travel_as_arrays_of_the_network_size(client: HttpModelClient, server: SmallServer) -> None:
    embedded = await client.embed([IMAGE, IMAGE], Deadline(5000))
    sent = np.load(io.BytesIO(server.bodies[0]))
    assert (sent.shape, sent.dtype) == ((2, 8, 8, 3), np.uint8)
    assert embedded.embeddings.shape == (2, 2)
    assert embedded.fingerprint == server.fingerprint


async def test_boxes_are_scaled_back_to_the_image(client: HttpModelClient, server: SmallServer) -> None:
    server.answers = [server.one_box]
    (detection,) = await client.detect(IMAGE, Deadline(5000))
    assert detection.box == (0, 0, 20, 20)


async def test_a_broken_connection_is_tried_once_more(client: HttpModelClient, server: SmallServer) -> None:
    server.answers = [hangs_up]
    assert (await client.embed([IMAGE], Deadline(5000))).embeddings.shape == (1, 2)
    assert len(server.bodies) == 2


async def test_a_connection_that_breaks_twice_names_the_stage(client: HttpModelClient, server: SmallServer) -> None:
    server.answers = [hangs_up, hangs_up]
    with pytest.raises(ModelUnavailable, match=r"^embed: "):
        await client.embed([IMAGE], Deadline(5000))
    assert len(server.bodies) == 2


@pytest.mark.parametrize("body", [b"", b"PK\x03\x04 no archive", b"<html>"])
async def test_a_reply_that_is_no_archive_is_a_failure_of_the_model(
    client: HttpModelClient, server: SmallServer, body: bytes
) -> None:
    async def nonsense(request: web.Request) -> web.Response:
        return web.Response(body=body)

    server.answers = [nonsense]
    with pytest.raises(ModelFailed, match="embed"):
        await client.embed([IMAGE], Deadline(2000))


async def test_a_reply_that_breaks_off_names_the_stage(client: HttpModelClient, server: SmallServer) -> None:
    server.answers = [breaks_off, breaks_off]
    with pytest.raises(ModelUnavailable, match="embed"):
        await client.embed([IMAGE], Deadline(2000))


async def test_an_error_of_the_model_is_never_retried(client: HttpModelClient, server: SmallServer) -> None:
    server.answers = [refuse]
    with pytest.raises(ModelFailed, match=r"^embed: the model server answered 503$"):
        await client.embed([IMAGE], Deadline(5000))
    assert len(server.bodies) == 1


@pytest.mark.parametrize(("answers", "told"), [([refuse], "503: no worker"), ([hangs_up] * 2, "cannot be reached")])
async def test_addresses_and_answers_inside_the_service_are_for_the_log_only(
    client: HttpModelClient,
    server: SmallServer,
    caplog: pytest.LogCaptureFixture,
    answers: list[Answer],
    told: str,
) -> None:
    server.answers = list(answers)
    with caplog.at_level(logging.WARNING), pytest.raises(ServiceError) as caught:
        await client.embed([IMAGE], Deadline(5000, "trace-7"))
    assert "127.0.0.1" not in caught.value.message and "no worker" not in caught.value.message
    (record,) = caplog.records
    assert "http://127.0.0.1" in record.getMessage() and told in record.getMessage()
    assert record.args["request_id"] == "trace-7"


async def test_a_model_that_had_no_time_left_is_a_deadline_exceeded(
    client: HttpModelClient, server: SmallServer
) -> None:
    async def too_late(request: web.Request) -> web.Response:
        return web.Response(status=504)

    server.answers = [too_late]
    with pytest.raises(DeadlineExceeded, match="'embed'"):
        await client.embed([IMAGE], Deadline(5000))


async def test_every_hop_carries_the_request_id(client: HttpModelClient, server: SmallServer) -> None:
    await client.embed([IMAGE], Deadline(5000, "trace-7"))
    assert server.request_ids == ["trace-7", "trace-7"]  # the card, then the crops


async def test_a_hanging_model_ends_at_the_deadline(client: HttpModelClient, server: SmallServer) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    server.answers = [hang]
    deadline = Deadline(200)
    with pytest.raises(DeadlineExceeded, match=r"'embed' did not end"):
        await deadline.bound("embed", client.embed([IMAGE], deadline))


async def test_crops_are_fitted_anew_when_an_embedder_of_another_size_answers(
    client: HttpModelClient, server: SmallServer
) -> None:
    await client.embed([IMAGE], Deadline(5000))
    await client.embed([IMAGE], Deadline(5000))
    assert (server.cards, client.embedder.fingerprint) == (1, "a" * 16)
    server.side_px, server.fingerprint = 16, "b" * 16
    embedded = await client.embed([IMAGE], Deadline(5000))
    assert (embedded.fingerprint, client.embedder.fingerprint, server.cards) == ("b" * 16, "b" * 16, 2)
    assert [np.load(io.BytesIO(body)).shape[1] for body in server.bodies] == [8, 8, 8, 16]


async def test_embedders_that_fit_alike_may_answer_in_turns(client: HttpModelClient, server: SmallServer) -> None:
    for turn in range(6):
        server.fingerprint = "ab"[turn % 2] * 16
        embedded = await client.embed([IMAGE], Deadline(5000))
        assert embedded.fingerprint == server.fingerprint
    assert (len(server.bodies), server.cards) == (6, 1)


async def test_embedders_that_fit_differently_and_answer_in_turns_are_an_error_never_a_wrong_embedding(
    client: HttpModelClient, server: SmallServer
) -> None:
    async def other(request: web.Request) -> web.Response:
        server.side_px, server.fingerprint = (16, "b" * 16) if server.side_px == 8 else (8, "a" * 16)
        return await server.embeddings(request)

    server.answers = [other] * 3
    with pytest.raises(ModelFailed, match="two embedders that prepare images differently"):
        await client.embed([IMAGE], Deadline(5000))
