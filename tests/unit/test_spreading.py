"""The router's calls go to every address behind a name, also while pods end, come and take others' places."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from PIL import Image

from lookalike.clients import HttpModelClient
from lookalike.config import RouterSettings
from lookalike.errors import ModelUnavailable
from lookalike.server_config import free_ports
from lookalike.spreading import SpreadingSession, resolve_by_system
from lookalike.stage_timer import Deadline
from tests.unit.test_clients import SmallServer

IMAGE = Image.new("RGB", (8, 8), "red")
PORT = free_ports("0.0.0.0", 1)[0]


class Pod:
    """A model server on an address of its own."""

    def __init__(self, address: str, pause_s: float = 0.0) -> None:
        self.address, self.pause_s, self.server = address, pause_s, SmallServer()
        self.under_way = 0
        self._connections: set[asyncio.Transport] = set()

    async def start(self) -> "Pod":
        app = web.Application()
        app.router.add_route("*", "/m", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.address, PORT).start()
        return self

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self._connections.add(request.transport)
        self.under_way += 1
        try:
            await asyncio.sleep(self.pause_s)
            return await self.server.handle(request)
        finally:
            self.under_way -= 1

    async def has_calls(self) -> None:
        """Wait until calls are under way here."""
        async with asyncio.timeout(10):
            while not self.under_way:
                await asyncio.sleep(0.001)

    async def kill(self) -> int:
        """End at once, as a node that is lost: every connection is reset. Returns the calls that this cut off."""
        cut = self.under_way
        for connection in self._connections:
            connection.abort()
        await self._runner.cleanup()
        return cut

    @property
    def calls(self) -> int:
        return len(self.server.bodies)


class Names:
    """A name server whose answers a test changes."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.asked = 0

    async def __call__(self, host: str) -> list[str]:
        assert host == "embedder"
        self.asked += 1
        if not self.addresses:
            raise OSError("no such name")
        return list(self.addresses)


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
async def start(names: Names) -> AsyncIterator[Callable[..., Awaitable[Pod]]]:
    async with AsyncExitStack() as stack:

        async def one(address: str, pause_s: float = 0.0) -> Pod:
            pod = await Pod(address, pause_s).start()
            stack.push_async_callback(pod.kill)
            names.addresses.append(address)
            return pod

        yield one


@pytest.fixture
async def client(names: Names) -> AsyncIterator[HttpModelClient]:
    url = f"http://embedder:{PORT}/m"
    client = HttpModelClient(
        RouterSettings(detector_url=url, embedder_url=url, metadata_url=url, resolve_s=0.05), names
    )
    yield client
    await client.close()


async def embed(client: HttpModelClient) -> None:
    embedded = await client.embed([IMAGE], Deadline(5000))
    assert embedded.embeddings.shape == (1, 2) and embedded.embeddings.dtype == np.float32


async def test_calls_go_to_every_address_alike(client, start) -> None:
    pods = [await start(f"127.0.0.{n}") for n in (2, 3, 4)]
    for _ in range(30):
        await embed(client)
    assert [pod.calls for pod in pods] == [10, 10, 10]


async def test_a_slow_pod_gets_fewer_calls(client, start) -> None:
    slow, quick = await start("127.0.0.2", pause_s=0.1), await start("127.0.0.3", pause_s=0.01)

    async def some() -> None:
        for _ in range(10):
            await embed(client)

    await asyncio.gather(*(some() for _ in range(4)))
    assert slow.calls + quick.calls == 40 and slow.calls < quick.calls / 2


async def test_no_call_fails_while_pods_are_killed_and_replaced_under_load(client, start, names) -> None:
    first, second = await start("127.0.0.2", 0.03), await start("127.0.0.3", 0.03)
    done, stop = 0, asyncio.Event()

    async def load() -> None:
        nonlocal done
        while not stop.is_set():
            await embed(client)
            done += 1

    clients = [asyncio.create_task(load()) for _ in range(8)]
    await asyncio.sleep(0.5)
    await first.has_calls()
    assert await first.kill() > 0  # calls were cut off in the middle
    await asyncio.sleep(0.5)  # DNS names the dead one for a while yet
    names.addresses.remove(first.address)
    third = await start("127.0.0.4", 0.03)
    await asyncio.sleep(0.5)
    assert third.calls > 20
    await second.has_calls()
    assert await second.kill() > 0
    names.addresses.remove(second.address)
    fourth = await start("127.0.0.5", 0.03)
    before = third.calls, fourth.calls
    await asyncio.sleep(0.5)
    stop.set()
    await asyncio.gather(*clients)  # raises what any call raised
    shares = third.calls - before[0], fourth.calls - before[1]
    assert min(shares) > 0.35 * sum(shares) and done > 50


async def test_an_address_that_left_dns_is_asked_no_more(client, start, names) -> None:
    staying, leaving = await start("127.0.0.2"), await start("127.0.0.3")
    await embed(client)
    names.addresses.remove(leaving.address)
    await asyncio.sleep(0.06)
    had = leaving.calls
    for _ in range(10):
        await embed(client)
    assert (leaving.calls, staying.calls) == (had, 11 - had)


async def test_known_addresses_go_on_while_dns_is_away(client, start, names) -> None:
    pod = await start("127.0.0.2")
    await embed(client)
    names.addresses.clear()
    await asyncio.sleep(0.06)
    await embed(client)
    assert pod.calls == 2


async def test_a_name_without_an_address_names_the_stage(client) -> None:
    with pytest.raises(ModelUnavailable, match=r"^embed: the model server cannot be reached$"):
        await embed(client)


async def test_addresses_are_asked_for_once_in_a_while_not_at_every_call(client, start, names) -> None:
    await start("127.0.0.2")
    await asyncio.gather(*(embed(client) for _ in range(20)))
    assert names.asked <= 3


async def test_the_server_is_told_the_name_that_was_asked_for(start) -> None:
    async def local(host: str) -> list[str]:
        return ["127.0.0.2"]

    async def tell(request: web.Request) -> web.Response:
        return web.Response(text=request.host)

    pod = await start("127.0.0.2")
    pod.server.answers = [tell]
    async with aiohttp.ClientSession() as session:
        spreading = SpreadingSession(session, resolve=local)
        async with spreading.request("POST", f"http://embedder:{PORT}/m", {}, b"") as response:
            assert await response.text() == f"embedder:{PORT}"


async def test_the_system_resolves_names_and_addresses() -> None:
    assert "127.0.0.1" in await resolve_by_system("localhost")
    assert await resolve_by_system("127.0.0.9") == ["127.0.0.9"]
