"""A server of the S3 protocol for tests: moto's, on a port of 127.0.0.1, which can be made to misbehave."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Callable, Iterable
from typing import Any

REFUSAL = b"<Error><Code>ServiceUnavailable</Code><Message>try again</Message></Error>"
DENIAL = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class S3Server:
    """What it holds outlives `stop` and `start`, which keep its port; who is opened after `stop` finds nobody."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self._app = DomainDispatcherApplication(create_backend_app)
        self._turn = threading.Lock()
        self.refuse = 0
        """so many requests are answered with 503 from now on"""
        self.lose_answers = 0
        """so many writes are done from now on, and answered with 503 all the same"""
        self.deny = False
        self.ignore_conditions = False
        # bound by us all the time: nobody else is given the port between `stop` and `start`
        self._place = _bound(0)
        self._port: int = self._place.getsockname()[1]
        self.start()

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to find it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *said: Any) -> None:
                return None

        with _bound(self._port) as place:
            place.listen(128)
            settings: dict[str, Any] = {"threaded": True, "request_handler": Quiet, "fd": place.fileno()}
            self._server = make_server("127.0.0.1", self._port, self._answer, **settings)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        from s3fs import S3FileSystem

        self._server.shutdown()
        self._server.server_close()
        # a connection that a client has kept open would be answered all the same
        S3FileSystem.clear_instance_cache()

    def bucket(self) -> str:
        """The URI of a store in a new bucket."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.client().mkdir(name)
        return f"s3://{name}/store"

    def client(self) -> Any:
        """An fsspec file system on it."""
        import s3fs

        known = self.environment
        return s3fs.S3FileSystem(
            key=known["AWS_ACCESS_KEY_ID"],
            secret=known["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=known["AWS_ENDPOINT_URL"],
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def contents(self, uri: str) -> dict[str, bytes]:
        """Every object of a store by its name."""
        client, root = self.client(), uri.removeprefix("s3://")
        return {path.removeprefix(f"{root}/"): client.cat_file(path) for path in client.find(root)}

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # real servers decide about a condition and write in one step; moto looks, and then writes
        with self._turn:
            writes = environ["REQUEST_METHOD"] == "PUT"
            if self.deny:
                start_response("403 Forbidden", [("Content-Type", "application/xml")])
                # an answer to HEAD has no body
                return [] if environ["REQUEST_METHOD"] == "HEAD" else [DENIAL]
            if self.refuse > 0:
                self.refuse -= 1
                return _refusal(start_response)
            if self.ignore_conditions:
                environ.pop("HTTP_IF_NONE_MATCH", None)
            if writes and self.lose_answers > 0:
                self.lose_answers -= 1
                list(self._app(environ, lambda *answer: None))
                return _refusal(start_response)
            return list(self._app(environ, start_response))


def _bound(port: int) -> socket.socket:
    """A socket at a port that may have several, of which those that listen are connected to."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind(("127.0.0.1", port))
    return found


def _refusal(start_response: Callable[..., Any]) -> list[bytes]:
    start_response("503 Service Unavailable", [("Content-Type", "application/xml")])
    return [REFUSAL]
