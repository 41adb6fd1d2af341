"""Spreads calls over all addresses behind a host name: the least busy first, fresh from DNS, broken ones set aside."""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from yarl import URL

# A host name, as a headless Service has it, to the addresses of its ready pods; raises OSError.
Resolve = Callable[[str], Awaitable[Sequence[str]]]
# A DNS server that is slow must not hold up searches: the addresses that are known go on.
RESOLVE_TIMEOUT_S = 0.5
# For how long an address that broke a connection is asked only when there is no other.
SET_ASIDE_S = 5.0
# Addresses that a call tries to connect to.
CONNECTS = 3


async def resolve_by_system(host: str) -> list[str]:
    """Return every address that the system's resolver has for `host`, each once.

    Raises:
        OSError: when it has none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Pods:
    """The addresses behind one host name, and how many calls each has under way."""

    def __init__(self, host: str, resolve: Resolve, fresh_s: float) -> None:
        self._host, self._resolve, self._fresh_s = host, resolve, fresh_s
        self._addresses: list[str] = []
        self._asked = float("-inf")
        self._asking = asyncio.Lock()
        self._under_way: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._aside_until: dict[str, float] = {}

    async def take(self) -> str:
        """Return the least busy address, of those the one that had the fewest calls; `give_back` ends the call.

        Raises:
            aiohttp.ClientConnectionError: when no address was ever found.
        """
        await self._refresh()
        now = time.monotonic()
        whole = [one for one in self._addresses if self._aside_until.get(one, now) <= now]
        chosen = min(whole or self._addresses, key=lambda one: (self._under_way[one], self._calls[one]))
        self._under_way[chosen] += 1
        self._calls[chosen] += 1
        return chosen

    def give_back(self, address: str, broken: bool) -> None:
        """End a call; after one that broke, others are asked first, and DNS anew."""
        self._under_way[address] -= 1
        if broken:
            self._aside_until[address] = time.monotonic() + SET_ASIDE_S
            self._asked = float("-inf")

    async def _refresh(self) -> None:
        async with self._asking:
            if time.monotonic() - self._asked < self._fresh_s:
                return
            try:
                found = await asyncio.wait_for(self._resolve(self._host), RESOLVE_TIMEOUT_S)
            except (OSError, TimeoutError) as error:
                # No pod is ready, or DNS is away: those that were known are the better guess.
                if not self._addresses:
                    raise aiohttp.ClientConnectionError(f"{self._host}: no address is known: {error}") from error
            else:
                self._replace(list(found) or self._addresses)
            self._asked = time.monotonic()

    def _replace(self, found: list[str]) -> None:
        if set(found) != set(self._addresses):
            # A newcomer starts level with the others, instead of getting every call until it has caught up.
            self._calls.clear()
            self._aside_until = {one: until for one, until in self._aside_until.items() if one in found}
        self._addresses = found


class SpreadingSession:
    """An HTTP client session whose calls go to all addresses of a URL's host, each with kept-alive connections."""

    def __init__(
        self, session: aiohttp.ClientSession, fresh_s: float = 1.0, resolve: Resolve = resolve_by_system
    ) -> None:
        """`fresh_s`: how old the addresses may be."""
        self._session, self._fresh_s, self._resolve = session, fresh_s, resolve
        self._pods: dict[str, Pods] = {}

    @asynccontextmanager
    async def request(
        self, method: str, url: str, headers: dict[str, str], data: bytes | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Call one address and yield its response; a call that breaks, while it is read too, sets the address aside.

        Raises:
            aiohttp.ClientError: as aiohttp does. Called again, it asks another address where there is one.
        """
        named = URL(url)
        host = named.host or ""
        pods = self._pods.setdefault(host, Pods(host, self._resolve, self._fresh_s))
        extra: dict[str, Any] = {"server_hostname": host} if named.scheme == "https" else {}
        sent = {**headers, "host": named.authority}
        for left in range(CONNECTS - 1, -1, -1):
            address, broken = await pods.take(), True
            try:
                async with self._session.request(
                    method, named.with_host(address), data=data, headers=sent, **extra
                ) as got:
                    yield got
                broken = False
                return
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                # Nothing was sent yet, so that another address may be asked at any time.
                if not left:
                    raise
            except aiohttp.ClientError:
                raise
            except BaseException:
                broken = False  # the caller's own: a deadline, or an error that the model told
                raise
            finally:
                pods.give_back(address, broken)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
