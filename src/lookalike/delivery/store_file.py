"""An image that lies in a store: opened like a file, read like an object."""

import errno
from functools import lru_cache
from io import RawIOBase
from typing import BinaryIO, Literal, cast

from lookalike.delivery.store import Store, open_store
from lookalike.errors import StoreError, StoreMissing, StoreUnreachable


def is_address(text: str) -> bool:
    """Tell whether a catalogue's path is the address of an object, such as `s3://bucket/name`."""
    return "://" in text


def store_file(address: str) -> "StoreFile":
    """Return the object at `address`; nothing is asked yet.

    Raises:
        SetupError: the address is of no known kind, or the extra `store` is not installed.
    """
    scheme, _, rest = address.partition("://")
    bucket, _, name = rest.partition("/")
    return StoreFile(_opened(f"{scheme}://{bucket}"), name)


class StoreFile:
    """An object in a store."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name

    def __str__(self) -> str:
        return f"{self._store.url}/{self._name}"

    def open(self, mode: Literal["rb"] = "rb", /) -> BinaryIO:
        """Return it as a file that is read from its beginning, in one piece."""
        return cast(BinaryIO, _Content(self._store, self._name))


class _Content(RawIOBase):
    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name

    def read(self, size: int = -1, /) -> bytes:
        """Return the first `size` bytes; what lies behind them is not fetched.

        Raises:
            OSError: there is no such object, it is empty, or it may not be read.
            StoreUnreachable: the store does not answer: no fault of the image.
        """
        try:
            return self._store.read(self._name) if size < 0 else self._store.read_block(self._name, 0, size)
        except StoreMissing as error:
            raise FileNotFoundError(errno.ENOENT, "No such object in the store") from error
        except StoreUnreachable:
            raise
        except StoreError as error:
            raise OSError(error.message) from error


@lru_cache
def _opened(url: str) -> Store:
    return open_store(url)  # one for a bucket: each has its own connections
