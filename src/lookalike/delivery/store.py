"""A folder in an object store or on a file system, through fsspec: every failure has a name, and waits are bounded."""

import errno
import fcntl
import importlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lookalike.config import StoreSettings
from lookalike.errors import SetupError, StoreError, StoreMissing, StoreMoved, StoreUnreachable
from lookalike.index.durable import fsync_path, replace_file

log = logging.getLogger(__name__)
T = TypeVar("T")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 10.0
# What asking again does not mend, by the error's class name: botocore is there only when s3fs is.
_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "ProfileNotFound"}
_FINAL = {errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTDIR}
_CONDITION_FAILED = {"PreconditionFailed", "ConditionalRequestConflict"}


class Store:
    """Objects by their names below one URL. Names have forward slashes; a name that is written once never changes."""

    def __init__(self, url: str, settings: StoreSettings, filesystem: Any, root: str) -> None:
        self.url, self._settings, self._fs, self._root = url.rstrip("/"), settings, filesystem, root.rstrip("/")

    def read(self, name: str) -> bytes:
        """Return an object.

        Raises:
            StoreMissing, StoreUnreachable, StoreError: naming it.
        """
        return bytes(self._tried(name, self._fs.cat_file, self._path(name)))

    def read_block(self, name: str, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to `end` of an object; as `read`."""
        return bytes(self._tried(name, self._fs.cat_file, self._path(name), start=start, end=end))

    def read_if_there(self, name: str) -> bytes | None:
        """Return an object, or None when there is none."""
        try:
            return self.read(name)
        except StoreMissing:
            return None

    def size(self, name: str) -> int | None:
        """Return an object's size in bytes, or None when there is none."""
        try:
            return int(self._tried(name, self._fs.info, self._path(name))["size"])
        except StoreMissing:
            return None

    def names(self, folder: str) -> list[str]:
        """Return the names of what lies in `folder`, sorted; none when there is no such folder."""
        try:
            found = self._tried(folder, self._fs.ls, self._path(folder), detail=False)
        except StoreMissing:
            return []
        names = {str(path).rstrip("/").rpartition("/")[2] for path in found}
        return sorted(name for name in names if not name.startswith("."))

    def files(self, folder: str = "") -> list[str]:
        """Return the names of all objects below `folder`, however deep, sorted; hidden ones are left out."""
        start = self._path(folder)
        inside = (str(path)[len(start) + 1 :] for path in self._tried(folder, self._fs.find, start))
        return sorted(name for name in inside if not any(part.startswith(".") for part in name.split("/")))

    def put(self, name: str, data: bytes) -> None:
        """Write an object in one step, over one that is there."""
        self._tried(name, self._fs.pipe_file, self._path(name), data)

    def put_new(self, name: str, data: bytes) -> None:
        """Write an object that is not there yet; the very same content may be there already.

        Raises:
            StoreMoved: another content is there.
        """
        self._put_if(name, data, None)

    def swap(self, name: str, data: bytes, expected: bytes | None) -> None:
        """Replace an object when it still holds `expected` (None: when there is none), in one step.

        Raises:
            StoreMoved: it holds something else.
        """
        self._put_if(name, data, expected)

    def upload(self, path: Path, name: str) -> None:
        """Write a file as an object."""
        self._tried(name, self._fs.put_file, str(path), self._path(name))

    def remove(self, name: str) -> None:
        """Remove an object, or a folder with everything below it; nothing to remove is a success."""
        # Not by fsspec's recursive removal, which takes brackets and stars in a URL for a pattern.
        for path in self._tried(name, self._fs.find, self._path(name)):
            with suppress(StoreMissing):  # another process was first
                self._tried(name, self._fs.rm_file, path)

    def _put_if(self, name: str, data: bytes, expected: bytes | None) -> None:
        # Before the content: a change between the two then fails the condition.
        condition = self._condition(name, expected)
        found = self.read_if_there(name)
        if found == data:
            return
        if found != expected:
            raise self._moved(name)
        try:
            self._tried(name, self._fs.pipe_file, self._path(name), data, **condition)
        except StoreMoved:
            # A put whose answer was lost meets its own object when it is tried again.
            if self.read_if_there(name) != data:
                raise

    def _condition(self, name: str, expected: bytes | None) -> dict[str, str]:
        if "s3" not in _protocols(self._fs) or not self._settings.conditional_puts:
            return {}
        if expected is None:
            return {"IfNoneMatch": "*"}
        try:
            return {"IfMatch": self._tried(name, self._fs.info, self._path(name))["ETag"]}
        except StoreMissing as error:
            raise self._moved(name) from error

    def _moved(self, name: str) -> StoreMoved:
        return StoreMoved(f"{self.url}/{name} was changed meanwhile by another publisher")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _tried(self, name: str, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """Call `function`, again while the store does not answer and time is left."""
        end_s, pause_s, told = time.monotonic() + self._settings.retry_s, _FIRST_PAUSE_S, ""
        while True:
            try:
                return function(*args, **options)
            except Exception as error:
                cause = self._named(name, error)
            if not isinstance(cause, StoreUnreachable) or time.monotonic() + pause_s > end_s:
                raise cause
            if cause.message != told:
                log.warning("%s; asking again for %.0f s", cause.message, self._settings.retry_s)
                told = cause.message
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _named(self, name: str, error: Exception) -> StoreError:
        """Return what went wrong as an error of the project; what is not known to be final may heal."""
        place = f"{self.url}/{name}" if name else self.url
        reason = " ".join(str(error).split()) or type(error).__name__
        code = _s3_code(error)
        if isinstance(error, FileExistsError) or code in _CONDITION_FAILED:
            return self._moved(name)
        if code == "NoSuchBucket":
            return StoreMissing(f"{place} is not in the store: the bucket does not exist")
        if isinstance(error, FileNotFoundError):
            return StoreMissing(f"{place} is not in the store")
        if isinstance(error, PermissionError):
            return StoreError(f"{place}: the store refuses: {reason}")
        if type(error).__name__ in _CREDENTIALS:
            return StoreError(f"{place}: {reason}", allowed="AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, or a role")
        if isinstance(error, OSError) and error.errno in _FINAL:
            return StoreError(f"{place}: {reason}")
        return StoreUnreachable(f"{place}: the store cannot be reached: {reason}")


class LocalStore(Store):
    """A folder of this machine (a PVC, an image volume): objects appear whole here, too."""

    def put(self, name: str, data: bytes) -> None:
        """Write an object in one step, over one that is there."""
        self._tried(name, self._replace, name, data)

    def upload(self, path: Path, name: str) -> None:
        """Write a file as an object; it takes its name when it is whole."""
        self._tried(name, self._copy, path, name)

    def remove(self, name: str) -> None:
        """Remove an object, or a folder with everything below it; nothing to remove is a success."""
        path = Path(self._path(name))
        if path.is_dir():
            self._tried(name, shutil.rmtree, path)
        else:
            self._tried(name, partial(path.unlink, missing_ok=True))

    def _put_if(self, name: str, data: bytes, expected: bytes | None) -> None:
        self._tried(name, self._locked_put, name, data, expected)

    def _locked_put(self, name: str, data: bytes, expected: bytes | None) -> None:
        Path(self._root).mkdir(parents=True, exist_ok=True)
        with Path(self._path(".store-lock")).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            path = Path(self._path(name))
            found = path.read_bytes() if path.exists() else None
            if found not in (expected, data):
                raise FileExistsError(name)
            if found != data:
                self._replace(name, data)

    def _replace(self, name: str, data: bytes) -> None:
        path = Path(self._path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)

    def _copy(self, path: Path, name: str) -> None:
        final = Path(self._path(name))
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f".tmp-{os.getpid()}-{final.name}")
        try:
            shutil.copyfile(path, temporary)
            fsync_path(temporary)
            os.replace(temporary, final)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_path(final.parent)


def open_store(url: str, settings: StoreSettings | None = None) -> Store:
    """Return the store at `url`: `s3://bucket/folder`, a path, or any URL that fsspec knows; nothing is asked yet.

    Raises:
        SetupError: the extra `store` is not installed, or the URL is of no known kind.
    """
    settings = settings or StoreSettings.load()
    try:
        core = importlib.import_module("fsspec.core")
        filesystem, root = core.url_to_fs(url, **_options(url, settings))
    except ImportError as error:
        raise SetupError(
            f"{url} needs a package that is not installed: {error}", allowed="the extra `store`"
        ) from error
    except ValueError as error:
        raise SetupError(
            f"{url} is no address of a store: {error}", allowed="s3://bucket/folder, or a folder"
        ) from error
    if "file" in _protocols(filesystem):
        return LocalStore(url, settings, filesystem, root)
    if "s3" in _protocols(filesystem):
        filesystem.retries = 1  # `_tried` alone decides how long a store is asked
    return Store(url, settings, filesystem, root)


def _options(url: str, settings: StoreSettings) -> dict[str, Any]:
    if not url.startswith(("s3://", "s3a://")):
        return {}
    # Nothing is kept between calls: what another process has put, and another endpoint, must be seen.
    timeouts = {"connect_timeout": settings.timeout_s, "read_timeout": settings.timeout_s}
    fresh = {"use_listings_cache": False, "skip_instance_cache": True}
    return {**fresh, "config_kwargs": {**timeouts, "retries": {"max_attempts": 0}}}


def _protocols(filesystem: Any) -> set[str]:
    protocol = filesystem.protocol
    return {protocol} if isinstance(protocol, str) else set(protocol)


def _s3_code(error: BaseException) -> str:
    """Return S3's own error code, which s3fs keeps in the cause."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
