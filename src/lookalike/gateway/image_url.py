"""`image_url`: fetching an image that a client only names, without becoming its way into the network around."""

import asyncio
import json
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, NamedTuple, Protocol
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from lookalike.errors import DeadlineExceeded, ImageTooLarge, ImageUrlFailed, ImageUrlRefused, InvalidRequest
from lookalike.gateway.body import Body
from lookalike.gateway.settings import GatewaySettings
from lookalike.options import IMAGE_URL

_SCHEMES = ("http", "https")
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_URL = 2048
_MAX_JSON = 65_536  # a body that names an image by URL is small; a larger one holds an image and passes untouched
_NAT64 = IPv6Network("64:ff9b::/96")

Address = IPv4Address | IPv6Address


class Resolve(Protocol):
    """Finds the addresses of a host; a test gives one that changes its mind."""

    async def __call__(self, host: str, port: int) -> list[str]:
        """Return the addresses of `host` as texts; raises OSError."""


async def system_resolve(host: str, port: int) -> list[str]:
    """Ask the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class NamedImage(NamedTuple):
    """A JSON body that names its image by URL, and the options beside it."""

    url: str
    options: dict[str, Any]


async def image_url_in_body(body: Body, first: bytes) -> tuple[NamedImage | None, bytes]:
    """Return the image that a JSON body names, or None; and what was read of the body, which begins with `first`.

    Raises:
        InvalidRequest: the body has an image as well, or `image_url` is no text.
    """
    read = bytearray(first)
    while not body.ended and len(read) <= _MAX_JSON:
        read += await body.next()
    if not body.ended or len(read) > _MAX_JSON:
        return None, bytes(read)
    try:
        payload = json.loads(bytes(read))
    except (ValueError, RecursionError):
        return None, bytes(read)  # the server behind says what is wrong with it
    if not isinstance(payload, dict) or IMAGE_URL not in payload:
        return None, bytes(read)
    url = payload.pop(IMAGE_URL)
    if not isinstance(url, str) or "image" in payload or "images" in payload:
        raise InvalidRequest(
            "image_url is a text, and takes the place of image", allowed='{"image_url": "https://..."}'
        )
    return NamedImage(url, payload), bytes(read)


class PinnedResolver(AbstractResolver):
    """Resolves a host once, refuses it unless every address is public, and hands exactly these to the connection.

    A name that resolves differently a moment later (DNS rebinding) is of no use: nobody asks again.
    """

    def __init__(self, resolve: Resolve, networks: Iterable[Any]) -> None:
        self._resolve, self._networks = resolve, list(networks)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of `host` for aiohttp.

        Raises:
            ImageUrlRefused: one of them is not public.
        """
        addresses = [ip_address(text.partition("%")[0]) for text in await self._resolve(host, port)]
        for address in addresses:
            self.check(address)
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    def check(self, address: Address) -> None:
        """Accept a public address, or one of the networks that the operator allows; raises ImageUrlRefused."""
        embedded = _embedded(address)
        if any(one.version == net.version and one in net for net in self._networks for one in (address, embedded)):
            return
        if not all(one.is_global and not one.is_multicast for one in (address, embedded)):
            # Which address it was is not said: an answer would map the network around.
            raise ImageUrlRefused("image_url leads to an address that is not public")

    async def close(self) -> None:
        """Nothing is held."""


class ImageFetcher:
    """Fetches images by URL under limits of address, port, redirects, size and time."""

    def __init__(self, settings: GatewaySettings, resolve: Resolve = system_resolve) -> None:
        self._settings = settings
        self._resolver = PinnedResolver(resolve, settings.image_url_networks)
        connector = aiohttp.TCPConnector(
            resolver=self._resolver, use_dns_cache=False, force_close=True, limit=settings.max_in_flight
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,  # a small body must not unfold into a large one
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"accept": "image/*", "accept-encoding": "identity", "user-agent": "lookalike"},
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def fetch(self, text: str) -> bytes:
        """Return the bytes behind a URL.

        Raises:
            ImageUrlRefused: the URL, or one that it redirects to, may not be fetched.
            ImageUrlFailed: its server does not answer with an image.
            ImageTooLarge, DeadlineExceeded: more bytes or time than is allowed.
        """
        try:
            async with asyncio.timeout(self._settings.image_url_timeout_s):
                return await self._follow(text)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the image behind image_url did not arrive within {self._settings.image_url_timeout_s:g} s"
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ImageUrlFailed("the server of image_url cannot be reached") from error

    async def _follow(self, text: str) -> bytes:
        for _ in range(self._settings.image_url_max_redirects + 1):
            url = self._checked(text)
            async with self._session.get(url, allow_redirects=False) as reply:
                if reply.status not in _REDIRECTS:
                    return await self._read(reply)
                text = urljoin(str(url), reply.headers.get("location", ""))
        raise ImageUrlRefused(
            "image_url redirects too often", allowed=f"{self._settings.image_url_max_redirects} times"
        )

    def _checked(self, text: str) -> URL:
        if len(text) > _MAX_URL:
            raise ImageUrlRefused("image_url is too long", allowed=f"at most {_MAX_URL} characters")
        try:
            url = URL(text)
            port, host = url.port, url.host
        except ValueError as error:
            raise ImageUrlRefused(f"image_url cannot be read: {error}") from error
        if url.scheme not in _SCHEMES or not host or url.user is not None or url.password is not None:
            raise ImageUrlRefused("image_url must be a plain web address", allowed=["http://", "https://"])
        if port not in self._settings.image_url_ports:
            raise ImageUrlRefused(
                "image_url names a port that is not allowed", [*map(str, self._settings.image_url_ports)]
            )
        if ":" in host or host.replace(".", "").isdigit():
            self._check_literal(host)
        return url

    def _check_literal(self, host: str) -> None:
        """Check what aiohttp takes for an address and connects to without asking a resolver."""
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError as error:  # 2130706433 and 127.1 are addresses to the system, and to nobody else
            raise ImageUrlRefused("image_url has no readable host") from error
        self._resolver.check(address)

    async def _read(self, reply: aiohttp.ClientResponse) -> bytes:
        limit, parts, size = self._settings.limits.max_bytes, [], 0
        if reply.status != 200:
            raise ImageUrlFailed(f"the server of image_url answered {reply.status}")
        async for part in reply.content.iter_any():
            size += len(part)
            if size > limit:
                raise ImageTooLarge("the image behind image_url has too many bytes", allowed=f"at most {limit} bytes")
            parts.append(part)
        return b"".join(parts)


def _embedded(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one wraps (mapped, 6to4, Teredo, NAT64), else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo or address
