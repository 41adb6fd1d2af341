"""API keys: made here, kept as digests, looked up in constant time.

A key is 256 random bits, so there is nothing to guess by dictionary: one SHA-256 is as hard to invert as the key is to
find. A slow hash (scrypt, argon2) protects passwords that people choose; here it would only cost every request 50 ms.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from lookalike.errors import Forbidden, Unauthorized

Role = Literal["read", "admin"]
PREFIX = "lk_"
_ENTRY = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64}):(?P<role>read|admin):(?P<sha256>[0-9a-f]{64})")


class ApiKey(BaseModel):
    """A key as the settings hold it: its name in logs and metrics, what it may do, and its digest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    role: Role
    sha256: str

    def entry(self) -> str:
        """Return the form in the settings: `name:role:sha256`."""
        return f"{self.name}:{self.role}:{self.sha256}"


def read_key(entry: str) -> ApiKey:
    """Read `name:role:sha256`.

    Raises:
        ValueError: for anything else; the entry itself is not repeated, as it may be the key.
    """
    match = _ENTRY.fullmatch(entry.strip())
    if match is None:
        raise ValueError("a key is written name:role:sha256, as `lookalike keys new` prints it")
    return ApiKey.model_validate(match.groupdict())


def new_key(name: str, role: Role) -> tuple[str, ApiKey]:
    """Return a new secret, which is shown once, and what the settings keep of it.

    Raises:
        ValueError: the name holds other characters than letters, digits, dot, dash and underscore.
    """
    secret = PREFIX + secrets.token_urlsafe(32)
    return secret, read_key(f"{name}:{role}:{_digest(secret)}")


class KeyRing:
    """The keys that are known. Reading is open until there is a read key; administration always needs an admin key."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._keys = list(keys)
        self.reading_is_open = not any(key.role == "read" for key in keys)
        self.has_admin = any(key.role == "admin" for key in keys)

    def find(self, secret: str) -> ApiKey | None:
        """Return the key of this secret; every known digest is compared, each in constant time."""
        digest, found = _digest(secret), None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def check(self, key: ApiKey | None, role: Role) -> None:
        """Accept a caller with `key` (None: it sent none) for calls that need `role`.

        Raises:
            Unauthorized: a key is needed.
            Forbidden: the key may not do this.
        """
        if key is None and not (role == "read" and self.reading_is_open):
            raise Unauthorized(f"this call needs an API key of the role {role}", allowed=HOW)
        if key is not None and role == "admin" and key.role != "admin":
            raise Forbidden("this call needs an API key of the role admin", allowed=["admin"])


HOW = ["x-api-key: KEY", "authorization: Bearer KEY"]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()
