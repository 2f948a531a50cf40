"""A store in memory that several actors share, each through a view of its own, at which faults can be injected."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from pipeline.errors import StoreUnavailable
from pipeline.store.base import Entry, Kind, StoredFile, checked_name


class Killed(BaseException):
    """The process that asked the store for something is no more. Nothing on the way up may take it for an error."""


@dataclass
class SharedFiles:
    """What is in the store. `history` keeps every content that a name ever had."""

    now: Callable[[], float]
    files: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    history: dict[str, list[bytes]] = field(default_factory=dict)

    def write(self, name: str, data: bytes) -> None:
        self.files[name] = data, self.now()
        self.history.setdefault(name, []).append(data)


@dataclass
class View:
    """The store as one actor sees it.

    `before(kind, name)` is called before an operation and may raise instead of it; `after(kind, name)` is called when it has
    been applied, and may raise, as if the reply had been lost, or return true: then the request counts as having been sent
    twice, and the reply is that to the second.
    """

    shared: SharedFiles
    before: Callable[[str, str], None]
    after: Callable[[str, str], bool]

    def probe(self) -> None:
        pass

    def put_if_absent(self, name: str, data: bytes | memoryview) -> bool:
        self.before("put_if_absent", checked_name(name))
        absent = name not in self.shared.files
        if absent:
            self.shared.write(name, bytes(data))
        return absent and not self.after("put_if_absent", name)

    def put(self, name: str, data: bytes | memoryview) -> None:
        self.before("put", checked_name(name))
        self.shared.write(name, bytes(data))
        self.after("put", name)

    def get(self, name: str) -> bytes:
        self.before("get", checked_name(name))
        return self._content(name)

    def open(self, name: str) -> BinaryIO:
        return cast(BinaryIO, io.BytesIO(self.get(name)))

    def size(self, name: str) -> int:
        self.before("size", checked_name(name))
        return len(self._content(name))

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        self.before("list", prefix)
        files = sorted(self.shared.files.items())
        return iter([StoredFile(name, len(data), at) for name, (data, at) in files if name.startswith(prefix)])

    def entries(self, folder: str = "") -> Iterator[Entry]:
        self.before("list", folder)
        rest = [name.removeprefix(folder) for name in self.shared.files if name.startswith(folder)]
        found = {name.partition("/")[0]: Kind.FOLDER if "/" in name else Kind.FILE for name in rest}
        return iter([Entry(folder + name, kind) for name, kind in sorted(found.items())])

    def move(self, name: str, target: str) -> None:
        self.put(target, self.get(name))
        self.delete(name)

    def delete(self, name: str) -> None:
        self.before("delete", checked_name(name))
        self.shared.files.pop(name, None)
        self.after("delete", name)

    def sweep(self, older_than_seconds: float) -> int:
        return 0

    def _content(self, name: str) -> bytes:
        if name not in self.shared.files:
            raise FileNotFoundError(name)
        return self.shared.files[name][0]


def unavailable(kind: str, name: str) -> StoreUnavailable:
    return StoreUnavailable(f"{kind} {name}: 503")


def memory(shared: SharedFiles | None = None) -> View:
    """A store without faults."""
    return View(shared or SharedFiles(lambda: 0.0), lambda kind, name: None, lambda kind, name: False)
