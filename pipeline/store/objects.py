"""A store in a bucket: S3, Google Cloud Storage or Azure, through obstore. One conditional PUT makes a whole file once.

obstore retries requests that time out, are throttled or find the service down, with growing random pauses. This module tells
a lost race from a request whose result is unknown, and turns errors into messages.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast

from pipeline.errors import PlanRefused, PromptmillError, StoreUnavailable
from pipeline.store.base import Entry, Kind, StoredFile, checked_name
from pipeline.wording import first_line

PROBE = "_job/probe/"
RETRY_SECONDS = 60
"""Seconds for which one operation is retried before the run stops, resumable."""
TIMEOUT_SECONDS = 30
"""Seconds that one request may take."""
ATTEMPTS = 8
"""Most attempts of a conditional PUT that had no effect: a conflict, or no reply, and the file does not exist."""
READ_AHEAD = 1 << 20
INSTALL = "install promptmill with its extra `objects`"


class ObjectStore:
    """The files below a prefix of a bucket. Safe for threads and processes.

    Args:
        uri: `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`.
        allow_unsafe: Accept a store without put-if-absent, where two drivers may overwrite each other's files.

    Raises:
        PlanRefused: If obstore is not installed, or the URI or the environment's settings cannot be used.
    """

    def __init__(self, uri: str, *, allow_unsafe: bool = False, pause: Callable[[float], None] = time.sleep) -> None:
        """Open no connection yet."""
        self.uri, self._allow_unsafe, self._pause = uri.rstrip("/"), allow_unsafe, pause
        if unusable := {"#", "?"}.intersection(uri):  # a URI ends its path there, and two outputs would share a folder
            raise PlanRefused(
                f"output.path={uri}: must be without {min(unusable)}; the environment has a store's settings"
            )
        try:
            import obstore
            from obstore import exceptions
        except ImportError as error:
            raise PlanRefused(f"output.path={uri}: object stores need obstore; {INSTALL}") from error
        self._ob, self._errors = obstore, exceptions
        try:
            self._store: Any = _opened(self.uri)
        except (exceptions.BaseError, ValueError) as error:
            raise PlanRefused(f"output.path={uri}: {first_line(error)}") from error

    def __repr__(self) -> str:
        """Show the URI, which has no secret in it."""
        return f"ObjectStore({self.uri!r})"

    def probe(self) -> None:
        """Refuse a store that would let a second writer replace a file; see `Store`."""
        if self._allow_unsafe:
            return
        name = PROBE + secrets.token_hex(8)
        try:
            first, second = self.put_if_absent(name, b"1"), self.put_if_absent(name, b"2")
        finally:
            with contextlib.suppress(PromptmillError):
                self.delete(name)
        if not first or second:
            raise PlanRefused(
                f"{self.uri}: this store does not honour put-if-absent (If-None-Match), so parts cannot be committed safely "
                "there; choose another output.path, or output.allow_unsafe_store=true if only one driver ever writes to it"
            )

    def put_if_absent(self, name: str, data: bytes | memoryview) -> bool:
        """Make the file, unless one of that name exists; see `Store`.

        If a PUT was applied but its reply was lost, the retry finds the file and returns False, as for a lost race. The file's
        content tells whose it is.
        """
        checked_name(name)
        if self._allow_unsafe:
            with self._telling(name):
                if self._exists(name):
                    return False
                self._store.put(name, bytes(data), use_multipart=False)
                return True
        until = time.monotonic() + RETRY_SECONDS
        for attempt in range(ATTEMPTS):
            with self._telling(name):
                try:
                    self._store.put(name, bytes(data), mode="create", use_multipart=False)
                    return True
                except (self._errors.AlreadyExistsError, self._errors.PreconditionError) as error:
                    doubt: Exception = error  # 409: S3 saw another request for this name, which may yet have failed
                except self._errors.GenericError as error:
                    doubt = error  # no reply in time: it may have been applied, or not
                if self._exists(name):
                    return False
            if time.monotonic() > until:
                break
            self._pause(random.uniform(0, 0.1 * 2**attempt))
        raise StoreUnavailable(f"{self.uri}: {name}: not there after {attempt + 1} attempts: {first_line(doubt)}")

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Make or replace the file; see `Store`."""
        with self._telling(name):
            self._store.put(checked_name(name), bytes(data), use_multipart=False)

    def get(self, name: str) -> bytes:
        """Return the whole content; see `Store`."""
        with self._telling(name):
            return bytes(self._store.get(checked_name(name)).bytes())

    def open(self, name: str) -> BinaryIO:
        """Return a seekable file for reading, a megabyte at a time; see `Store`."""
        size = self.size(name)
        reader = _Reader(size, lambda start, stop: self._range(name, start, stop))
        return cast(BinaryIO, io.BufferedReader(reader, READ_AHEAD))

    def size(self, name: str) -> int:
        """Return the number of bytes; see `Store`."""
        with self._telling(name):
            return int(self._store.head(checked_name(name))["size"])

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        """Yield the files whose names begin with `prefix`; see `Store`."""
        folder = prefix.rpartition("/")[0]
        found: list[StoredFile] = []
        with self._telling(prefix):
            for chunk in self._store.list(folder or None):
                found += [
                    StoredFile(entry["path"], entry["size"], entry["last_modified"].timestamp())
                    for entry in chunk
                    if entry["path"].startswith(prefix)
                ]
        yield from sorted(found, key=lambda file: file.name)

    def entries(self, folder: str = "") -> Iterator[Entry]:
        """Yield what is directly in a folder; see `Store`."""
        with self._telling(folder):
            found = self._store.list_with_delimiter(folder or None)
            yield from (Entry(path.rstrip("/"), Kind.FOLDER) for path in found["common_prefixes"])
            # Consoles mark a folder by an empty object of its own name.
            yield from (Entry(e["path"], Kind.FILE) for e in found["objects"] if e["path"] != folder.rstrip("/"))

    def move(self, name: str, target: str) -> None:
        """Copy, then delete; see `Store`."""
        self.put(target, self.get(name))
        self.delete(name)

    def delete(self, name: str) -> None:
        """Remove the file; see `Store`."""
        with contextlib.suppress(FileNotFoundError), self._telling(name):
            self._store.delete(checked_name(name))

    def sweep(self, older_than_seconds: float) -> int:
        """Do nothing: a PUT is applied completely or not at all, so nothing is left behind; see `Store`."""
        return 0

    def _exists(self, name: str) -> bool:
        try:
            self._store.head(name)
        except FileNotFoundError:
            return False
        return True

    def _range(self, name: str, start: int, stop: int) -> bytes:
        if start >= stop:
            return b""
        with self._telling(name):
            return bytes(self._store.get_range(name, start=start, end=stop))

    @contextlib.contextmanager
    def _telling(self, name: str) -> Iterator[None]:
        """Turn errors of obstore into errors for the person who runs the job."""
        errors = self._errors
        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
                raise PlanRefused(f"output.path={self.uri}: there is no such bucket") from error
            raise FileNotFoundError(name) from error
        except (errors.PermissionDeniedError, errors.UnauthenticatedError) as error:
            raise PlanRefused(
                f"output.path={self.uri}: {name}: not permitted; check the credentials in the environment: {first_line(error)}"
            ) from error
        except errors.BaseError as error:
            raise StoreUnavailable(f"{self.uri}: {name}: {first_line(error)}") from error


class _Reader(io.RawIOBase):
    """A stored file as a raw stream; the buffer around it chooses the size of each read."""

    def __init__(self, size: int, read: Callable[[int, int], bytes]) -> None:
        """Begin at the start."""
        self._size, self._read, self._at = size, read, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._read(self._at, min(self._at + len(buffer), self._size))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _opened(uri: str) -> Any:
    """Open the store at a URI, with the settings in the environment."""
    from obstore.store import from_url

    options: dict[str, Any] = {
        "client_options": {"timeout": timedelta(seconds=TIMEOUT_SECONDS), "connect_timeout": timedelta(seconds=10)},
        "retry_config": {"max_retries": 10, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
    }
    if uri.startswith("s3://"):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            options["endpoint"] = endpoint
            options["client_options"]["allow_http"] = endpoint.startswith("http://")
        options |= _profile()
    return from_url(uri, **options)


def _profile() -> dict[str, Any]:
    """Return credentials and region of an AWS profile, if there is one and the environment has no key."""
    named = os.environ.get("AWS_PROFILE")
    if os.environ.get("AWS_ACCESS_KEY_ID") or not (named or any(file.is_file() for file in _profile_files())):
        return {}
    try:
        import boto3
        import botocore.exceptions
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise PlanRefused(
            f"credentials of an AWS profile ({named or 'default'}) need boto3: {INSTALL}, or set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        ) from error
    try:
        session = boto3.Session()
        if session.get_credentials() is None:
            return {}
        region = {"region": session.region_name} if session.region_name else {}
        return {"credential_provider": Boto3CredentialProvider(session), **region}
    except botocore.exceptions.BotoCoreError as error:
        raise PlanRefused(f"AWS profile {named or 'default'}: {first_line(error)}") from error


def _profile_files() -> Iterator[Path]:
    """Yield where AWS's files of credentials and settings may be."""
    for variable, name in (("AWS_SHARED_CREDENTIALS_FILE", "credentials"), ("AWS_CONFIG_FILE", "config")):
        with contextlib.suppress(RuntimeError):  # a user without a home directory, as in some containers
            yield Path(os.environ.get(variable) or f"~/.aws/{name}").expanduser()
