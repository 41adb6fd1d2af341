"""Who may come in, how often, and how many at a time."""

import ipaddress
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from lookalike.errors import Overloaded, RateLimited, TooManyAtOnce, Unauthorized
from lookalike.gateway.context import RequestContext
from lookalike.gateway.keys import HOW, KeyRing, Role
from lookalike.gateway.metrics import GatewayMetrics
from lookalike.gateway.rates import RateLimiter
from lookalike.gateway.settings import GatewaySettings

_IPV6_PREFIX = 64  # what one subscriber gets: limits by single addresses would limit nobody


class Admission:
    """Keys, rates and concurrency of one gateway process."""

    def __init__(self, settings: GatewaySettings, metrics: GatewayMetrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._ring = KeyRing(settings.keys)
        self._calls = RateLimiter(settings.rate) if settings.rate else None
        self._thumbnails = RateLimiter(settings.thumbnail_rate) if settings.thumbnail_rate else None
        self._in_flight: Counter[str] = Counter()

    @property
    def has_admin(self) -> bool:
        """Tell whether there is a key that may administer."""
        return self._ring.has_admin

    def admit(self, context: RequestContext, role: Role, thumbnail: bool = False) -> str:
        """Let a caller in; return whose it is, by which it is counted.

        A known key has a rate of its own, whatever address it comes from; everybody else, wrong keys included, is
        counted by address, so that nobody tries keys without end.

        Raises:
            Unauthorized, Forbidden: the key is missing, wrong or of another role.
            RateLimited: too often, with the seconds to wait.
        """
        secret = _secret_in(context)
        key = self._ring.find(secret) if secret is not None else None
        caller = f"key {key.name}" if key is not None else f"address {_address(context.client)}"
        self._count(caller, self._thumbnails if thumbnail else self._calls)
        if secret is not None and key is None:
            raise Unauthorized("the API key is not known", allowed=HOW)
        self._ring.check(key, role)
        context.key = key.name if key is not None else None
        return caller

    @contextmanager
    def slot(self, caller: str) -> Iterator[None]:
        """Take one of the places of requests under way, at once or not at all.

        Raises:
            TooManyAtOnce: this caller has as many as one may have.
            Overloaded: all places are taken.
        """
        if self._in_flight[caller] >= self._settings.max_in_flight_per_client:
            limit = self._settings.max_in_flight_per_client
            raise TooManyAtOnce(f"{limit} requests of this client are under way: wait for an answer")
        if self._in_flight.total() >= self._settings.max_in_flight:
            raise Overloaded("the service is busy with as many requests as it takes at a time")
        self._in_flight[caller] += 1
        self._metrics.in_flight.inc()
        try:
            yield
        finally:
            self._metrics.in_flight.dec()
            self._in_flight[caller] -= 1
            if not self._in_flight[caller]:
                del self._in_flight[caller]

    def _count(self, caller: str, limiter: RateLimiter | None) -> None:
        wait_s = limiter.hit(caller) if limiter is not None else 0.0
        if limiter is not None and wait_s:
            raise RateLimited("too many requests", allowed=str(limiter.rate), retry_after_s=wait_s)


def _secret_in(context: RequestContext) -> str | None:
    """Return the key that came along; never from the query string, which ends up in logs."""
    if key := context.headers.get("x-api-key"):
        return key
    scheme, _, credentials = context.headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" and credentials.strip() else None


def _address(client: str) -> str:
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
    return str(address)
