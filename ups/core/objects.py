"""Objects behind a URI of fsspec: small reads and writes that outlast a server which refuses them for a while.

What may pass by itself (no connection, a timeout, a server's own error, throttling) is tried again with growing pauses;
what will not (no such bucket, access denied) is told at once, with the remedy.
"""

from __future__ import annotations

import errno
import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

from ups.core.errors import UserError
from ups.core.store_uri import check

T = TypeVar("T")

PATIENCE_SECONDS = 90.0
"""for so long a request that a server refuses is repeated"""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0
_TRANSIENT_STATUS = (408, 409, 425, 429)
"""and all from 500; 409 is what a store answers to one of two conditional writes at the same moment"""
_TRANSIENT_CODE = re.compile(r"SlowDown|Throttl|RequestLimit|TooManyRequests|RequestTimeout$|Bandwidth|InternalError")
_TRANSIENT_ERRNO = {
    errno.EBUSY,
    getattr(errno, "EREMOTEIO", errno.EBUSY),
    errno.ETIMEDOUT,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENETDOWN,
}
_TRANSIENT_NAMES = {
    # of botocore, aiohttp, azure and google: none of them is imported here, and any may be missing
    "ConnectionError",
    "HTTPClientError",
    "IncompleteReadError",
    "ResponseParserError",
    "ResponseStreamingError",
    "ClientConnectionError",
    "ClientPayloadError",
    "ServerDisconnectedError",
    "ServiceRequestError",
    "ServiceResponseError",
    "TransportError",
}
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}
_MUST_BE_THERE = object()
_one_at_a_time = threading.Lock()


class StoreUnreachable(OSError):
    """A server refused requests for longer than anybody waits. One line; nothing was damaged."""


class StoreDenied(UserError):
    """A server does not let this process in: it has no credentials, or those that it has are not valid any more."""


class Objects:
    """The objects below a URI; names are relative to it."""

    def __init__(self, uri: str) -> None:
        """
        Raises:
            UserError: the URI holds credentials, or its protocol is unknown or lacks a package.
        """
        try:
            self.uri = check(uri).rstrip("/")
        except UserError as error:
            raise UserError(f"store: {error}") from None
        try:
            self._files, root = file_system(self.uri)
        except ImportError as error:
            package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "abfs": "adlfs"}.get(self.uri.partition(":")[0])
            remedy = f"`pip install {package}`" if package else "the package that fsspec names"
            raise UserError(f"{self.uri}: needs {remedy} on every node ({_line(error)})") from None
        except ValueError as error:
            raise UserError(f"{self.uri}: no store can be opened there ({_line(error)})") from None
        self._root = root.rstrip("/")
        # those of fsspec that are not asynchronous share state between threads; memory:// looks before it creates
        self._turn: AbstractContextManager[Any] = nullcontext() if _is_asynchronous(self._files) else _one_at_a_time

    def read(self, name: str) -> bytes | None:
        """The content of an object; None if there is none."""
        return self._tried(lambda: self._files.cat_file(self._path(name)), missing=None)

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """The content of those that are there, many at a time."""
        paths = {self._path(name): name for name in names}

        def read() -> dict[str, bytes]:
            found: dict[str, Any] = self._files.cat(list(paths), on_error="return")
            for value in found.values():
                if isinstance(value, Exception) and not isinstance(value, FileNotFoundError):
                    raise value
            return {paths[path]: value for path, value in found.items() if not isinstance(value, Exception)}

        return self._tried(read) if paths else {}

    def write(self, name: str, content: bytes, *, patience: float | None = None) -> None:
        """Replace an object, or make it: a reader sees the old one or the new one."""
        self._tried(lambda: self._files.pipe_file(self._path(name), content), patience=patience)

    def create(self, name: str, content: bytes) -> bool:
        """Whether it was this call that made the object; `content` must be like no other's."""

        def create() -> bool:
            try:
                self._files.pipe_file(self._path(name), content, mode="create")
            except Exception as error:
                if not _exists_already(error):
                    raise
                return False
            return True

        # a request whose answer was lost is repeated, by us or below us, and then refused for its own object
        return self._tried(create) or self.read(name) == content

    def put(self, name: str, file: Path) -> None:
        """Upload a file."""
        self._tried(lambda: self._files.put_file(str(file), self._path(name)))

    def get(self, name: str, file: Path) -> bool:
        """Download into a file; False if there is no such object."""
        return self._tried(lambda: self._files.get_file(self._path(name), str(file)) or True, missing=False)

    def sizes(self, folder: str, *, patience: float | None = None) -> dict[str, int]:
        """Every object below a folder -> its bytes."""
        found: dict[str, Any] = self._tried(
            lambda: self._files.find(self._path(folder), detail=True), patience=patience, missing=dict[str, Any]()
        )
        start = len(self._root) + 1
        return {path[start:]: int(facts["size"] or 0) for path, facts in found.items()}

    def remove(self, names: Iterable[str]) -> None:
        """Those that are not there count as removed."""
        for name in names:
            self._tried(partial(self._files.rm_file, self._path(name)), missing=None)

    def check(self) -> None:
        """See that everything that a store does can be done here.

        Raises:
            UserError: it cannot be read or written, or of two that create the same object both succeed.
            StoreUnreachable: no answer.
        """
        refusal = (
            f"{self.uri}: two processes could make the same artifact at once, because this file system cannot create "
            "an object only where there is none; use a folder, s3:// with conditional writes, gs:// or abfs://"
        )
        if not _can_create(self._files):
            raise UserError(refusal)
        name = f"probe/{uuid.uuid4().hex}"
        try:
            if not self.create(name, b"one") or self.create(name, b"other"):
                raise UserError(refusal)
            if self.read(name) != b"one" or name not in self.sizes("probe"):
                raise UserError(f"{self.uri}: what is written there does not come back; choose another place")
        finally:
            self.remove([name])

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def _tried(self, act: Callable[[], T], *, patience: float | None = None, missing: Any = _MUST_BE_THERE) -> T:
        """What `act` gives in the end; `missing` where it finds no object, if that is an answer."""
        begin, pauses = time.monotonic(), _pauses()
        while True:
            try:
                with self._turn:
                    return act()
            except FileNotFoundError as error:
                if missing is _MUST_BE_THERE or _code(error) == "NoSuchBucket":
                    raise self._refused(error) from None
                return missing
            except Exception as error:
                if not is_transient(error):
                    raise self._refused(error) from None
                waited = time.monotonic() - begin
                if waited >= (PATIENCE_SECONDS if patience is None else patience):
                    raise StoreUnreachable(f"{self.uri}: no answer in {waited:.0f} s ({_line(error)})") from None
            time.sleep(next(pauses))

    def _refused(self, error: Exception) -> Exception:
        """What a user can do about it; whatever is not the server's answer stays as it is."""
        status, said = _status(error), f"({_line(error)})"
        if isinstance(error, FileNotFoundError):
            return UserError(f"{self.uri}: there is no such bucket or container {said}; create it, or mend the URI")
        if isinstance(error, PermissionError) or status in (401, 403) or _names(error) & _NO_CREDENTIALS:
            return StoreDenied(
                f"{self.uri}: access denied {said}; put credentials that may read, write, list and delete there into "
                "the environment of every node (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
            )
        return error if status is None else UserError(f"{self.uri}: the server refuses {said}; mend the URI")


def file_system(uri: str) -> tuple[Any, str]:
    """What fsspec has for a URI, and the path in it.

    Raises:
        ImportError: it needs a package that is missing.
        ValueError: there is none for the protocol.
    """
    from fsspec.core import url_to_fs

    # a listing that was kept would hide what others write
    files, root = url_to_fs(uri, use_listings_cache=False, **_settings(uri))
    if hasattr(files, "retries"):  # s3fs repeats what timed out five times by itself; patience is ours
        files.retries = 1
    return files, str(root)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    code, status = _code(error), _status(error)
    if code is not None and _TRANSIENT_CODE.search(code):
        return True
    if status is not None:
        return status >= 500 or status in _TRANSIENT_STATUS
    if isinstance(error, ConnectionError | TimeoutError) or bool(_names(error) & _TRANSIENT_NAMES):
        return True
    return isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO


def _exists_already(error: Exception) -> bool:
    return isinstance(error, FileExistsError) or _code(error) == "PreconditionFailed" or _status(error) == 412


def _can_create(files: Any) -> bool:
    """Whether a file system has its own way to create; fsspec's is to look first, and then to write."""
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    name = "_pipe_file" if _is_asynchronous(files) else "pipe_file"
    own, plain = getattr(type(files), name), (getattr(AsyncFileSystem, name), getattr(AbstractFileSystem, name, None))
    return own not in plain and "mode" in signature(own).parameters


def _is_asynchronous(files: Any) -> bool:
    from fsspec.asyn import AsyncFileSystem

    return isinstance(files, AsyncFileSystem)


def _settings(uri: str) -> dict[str, Any]:
    """What a file system is opened with: a server that is gone is noticed in half a minute, and not in half an
    hour."""
    once = {"connect_timeout": 10, "read_timeout": 20, "retries": {"total_max_attempts": 1}}
    return {"config_kwargs": once} if uri.startswith(("s3://", "s3a://")) else {}


def _chain(error: BaseException) -> Iterator[BaseException]:
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__


def _answer(error: BaseException) -> dict[str, Any]:
    """A server's answer, as botocore keeps it."""
    answers = (getattr(each, "response", None) for each in _chain(error))
    return next((answer for answer in answers if isinstance(answer, dict)), {})


def _code(error: BaseException) -> str | None:
    code = _answer(error).get("Error", {}).get("Code")
    return None if code is None else str(code)


def _status(error: BaseException) -> int | None:
    """Of HTTP, where a server has answered."""
    found = _answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    for each in _chain(error):
        # azure and google
        found = found or getattr(each, "status_code", None) or getattr(each, "code", None)
    return found if isinstance(found, int) else None


def _names(error: BaseException) -> set[str]:
    return {base.__name__ for each in _chain(error) for base in type(each).__mro__}


def _line(error: BaseException) -> str:
    said = (str(error).strip().splitlines() or [""])[0]
    # a proxy's URL may hold a password
    return re.sub(r"//[^/@\s]*@", "//...@", f"{type(error).__name__}: {said}" if said else type(error).__name__)


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE_SECONDS
    while True:
        # not all at once when the server is back
        yield pause * random.uniform(0.5, 1.0)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
