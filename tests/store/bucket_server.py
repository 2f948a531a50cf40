"""S3 as moto imitates it, on loopback, behind a door at which requests can be refused and replies lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from wsgiref.types import StartResponse, WSGIEnvironment

import boto3
import pytest

PATIENCE = 900.0
"""Seconds for which a reply that is late waits for the next request."""


class Door:
    """In front of the server: the next requests of a method are refused, or their replies lost, as it is told."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self.troubles: list[tuple[str, str]] = []
        self.seen: list[str] = []
        self._asked = threading.Condition()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        with self._asked:
            self.seen.append(method)
            number = len(self.seen)
            self._asked.notify_all()
            trouble = self.troubles.pop(0)[1] if self.troubles and self.troubles[0][0] == method else ""
        if trouble in ("lost", "late"):
            list(self._app(environ, lambda *_: None))
            if trouble == "late":  # later than the client waits for it: it has asked again
                with self._asked:
                    self._asked.wait_for(lambda: len(self.seen) > number, PATIENCE)
            trouble = "503 Slow Down"
        elif trouble:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if trouble:
            start_response(trouble, [("Content-Type", "application/xml")])
            return [f"<Error><Code>{trouble[4:].replace(' ', '')}</Code><Message>told to</Message></Error>".encode()]
        if "If-None-Match" in self.ignored:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        return self._app(environ, start_response)

    ignored: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Door]]:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    door = Door(DomainDispatcherApplication(create_backend_app))
    made = make_server("127.0.0.1", 0, door, threaded=True)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}", door
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def door(server: tuple[str, Door], monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    endpoint, door = server
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    yield door
    door.troubles, door.ignored = [], ()
    for entry in client.list_objects_v2(Bucket="bucket").get("Contents", []):
        client.delete_object(Bucket="bucket", Key=entry["Key"])
    client.delete_bucket(Bucket="bucket")
