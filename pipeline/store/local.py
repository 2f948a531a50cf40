"""A store in a local directory. To write: a nameless file, fsync, a hard link to the final name, fsync of the directory.

A nameless file (`O_TMPFILE`) disappears with the process that wrote it. On file systems without nameless files, it has a name
in `_job/tmp/` until it is complete.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import PlanRefused, PromptmillError, StorageFull
from pipeline.store.base import Entry, Kind, StoredFile, checked_name
from pipeline.store.process import is_gone, me

TEMPORARIES = "_job/tmp/"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# EEXIST: a file where a folder should be; an existing file of that name is not an error and does not get here.
_UNUSABLE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
# EISDIR and ENOENT: kernels and file systems that do not know O_TMPFILE take the folder for the file.
_ALWAYS_NAMED = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.EISDIR, errno.ENOENT, errno.EINVAL}


class LocalStore:
    """The files below one directory, which the first write makes. Safe for threads, processes and NFS clients."""

    def __init__(self, root: str | Path) -> None:
        """Remember the directory as an absolute path, so that a later change of directory does not move the store."""
        self.root = Path(root).expanduser().absolute()

    def __repr__(self) -> str:
        """Show the directory."""
        return f"LocalStore({str(self.root)!r})"

    def probe(self) -> None:
        """Every file system either links, or is refused at the first write; see `Store`."""

    def put_if_absent(self, name: str, data: bytes | memoryview) -> bool:
        """Make the file, unless one of that name exists; see `Store`."""
        final = self._path(name)
        with self._telling(name, memoryview(data).nbytes):
            won: bool | None = False
            if not os.path.lexists(final):
                self._make_folder(final.parent)
                won = self._link_nameless(data, final)
                if won is None:
                    with self._temporary(data) as temporary:
                        won = self._link(temporary, final)
            _sync(final.parent)  # the other writer may have been killed before its fsync
        return bool(won)

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Make or replace the file; see `Store`."""
        final = self._path(name)
        with self._telling(name, memoryview(data).nbytes):
            with self._temporary(data) as temporary:
                self._make_folder(final.parent)
                os.replace(temporary, final)  # noqa: PTH105 - the call that is meant to be seen in a trace
            _sync(final.parent)

    def get(self, name: str) -> bytes:
        """Return the whole content; see `Store`."""
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> BinaryIO:
        """Return a seekable file for reading; see `Store`."""
        with self._telling(name):
            return self._path(name).open("rb")

    def size(self, name: str) -> int:
        """Return the number of bytes; see `Store`."""
        with self._telling(name):
            found = self._path(name).stat()
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(name)
        return found.st_size

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        """Yield the files whose names begin with `prefix`; see `Store`."""
        folder = prefix.rpartition("/")[0]
        start = self._path(folder) if folder else self.root
        with self._telling(prefix):
            found = [f for f in self._walk(start, f"{folder}/" if folder else "") if f.name.startswith(prefix)]
        yield from sorted(found, key=lambda f: f.name)

    def entries(self, folder: str = "") -> Iterator[Entry]:
        """Yield what is directly in a folder; see `Store`."""
        with self._telling(folder):
            try:
                found = os.scandir(self._path(folder.rstrip("/")) if folder else self.root)
            except FileNotFoundError:
                return
            with found:
                for entry in found:
                    name = f"{folder}{os.fsencode(entry.name).decode(errors='replace')}"
                    if entry.is_dir(follow_symlinks=False):
                        yield Entry(name, Kind.FOLDER)
                    else:
                        yield Entry(name, Kind.FILE if entry.is_file() else Kind.OTHER)

    def move(self, name: str, target: str) -> None:
        """Rename, a folder too; see `Store`."""
        source, final = self._path(name), self._path(target)
        with self._telling(name):
            self._make_folder(final.parent)
            source.rename(final)
            _sync(final.parent)
            _sync(source.parent)

    def delete(self, name: str) -> None:
        """Remove the file; see `Store`."""
        final = self._path(name)
        with self._telling(name):
            final.unlink(missing_ok=True)
            if final.parent.is_dir():
                _sync(final.parent)

    def sweep(self, older_than_seconds: float) -> int:
        """Remove temporaries that killed processes left behind, and return how many; see `Store`.

        Args:
            older_than_seconds: Younger ones stay, unless their process was on this machine and has ended. Ages are measured
                on the file system's clock, so that a machine with a wrong clock removes nobody's work.
        """
        folder = self._path(TEMPORARIES.rstrip("/"))
        swept = 0
        with self._telling(TEMPORARIES):
            if not folder.is_dir() or not any(folder.iterdir()):
                return 0
            with self._temporary(b"") as probe:
                now = probe.stat().st_mtime
            for path in folder.iterdir():
                with contextlib.suppress(FileNotFoundError):  # its owner, or another sweep, was faster
                    if is_gone(path.name.partition(".")[0]) or now - path.stat().st_mtime > older_than_seconds:
                        path.unlink()
                        swept += 1
        return swept

    def _path(self, name: str) -> Path:
        return self.root.joinpath(*checked_name(name).split("/"))

    def _walk(self, folder: Path, prefix: str) -> Iterator[StoredFile]:
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            return
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                if f"{name}/" != TEMPORARIES:
                    yield from self._walk(folder / entry.name, f"{name}/")
                continue
            with contextlib.suppress(FileNotFoundError):  # removed since the scan, or a dangling link
                if entry.is_file():
                    found = entry.stat()
                    yield StoredFile(name, found.st_size, found.st_mtime)

    @contextlib.contextmanager
    def _temporary(self, data: bytes | memoryview) -> Iterator[Path]:
        """Yield a durable file with `data` on the store's own file system, and remove it afterwards in any case.

        It has a name for as short as possible: a process killed meanwhile leaves it behind for `sweep`.
        """
        path = self._path(f"{TEMPORARIES}{me()}.{secrets.token_hex(8)}")
        self._make_folder(path.parent)
        try:
            if self._link_nameless(data, path) is None:
                # Not tempfile: its files are readable by their owner only, and the committed parts would be too.
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _link_nameless(self, data: bytes | memoryview, final: Path) -> bool | None:
        """Write a nameless file and link it to its final name; return whether that was free, or None if that is impossible."""
        try:
            handle = os.open(final.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno in _ALWAYS_NAMED:
                return None
            raise
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
            try:
                # Any folder given as `src_dir_fd` makes Python call linkat, which follows the kernel's link to the file.
                os.link(f"/proc/self/fd/{handle}", final, src_dir_fd=handle, follow_symlinks=True)
            except FileExistsError:
                return os.fstat(handle).st_nlink > 0  # see `_link`
            except OSError as error:
                if error.errno in _NO_LINKS or error.errno in (errno.ENOENT, errno.EXDEV):
                    return None  # no /proc, or no links: the fallback reports what is wrong
                raise
        return True

    def _link(self, temporary: Path, final: Path) -> bool:
        try:
            os.link(temporary, final)
        except FileExistsError:
            # NFS: if the reply to a link is lost, the client retries and is told that the name exists.
            return temporary.stat().st_nlink > 1
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise PlanRefused(
                    f"{self.root} is on a file system without hard links ({error.strerror}), so a part cannot be"
                    " committed safely there; choose an output.path on a local disk or NFS and copy the result"
                ) from error
            if error.errno == errno.EXDEV:
                raise PlanRefused(
                    f"{final.parent} is on another file system than {temporary.parent}; an output folder must be on one"
                ) from error
            raise
        return True

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and those above it; each new one is made durable in the folder that holds it."""
        if folder.is_dir():
            return
        if folder.parent != folder:
            self._make_folder(folder.parent)
        try:
            folder.mkdir(exist_ok=True)
        except FileNotFoundError as error:  # a kernel file system such as /proc
            raise PlanRefused(f"output.path {self.root}: no folder can be made in {folder.parent}") from error
        _sync(folder.parent)

    @contextlib.contextmanager
    def _telling(self, name: str, wanted: int = 0) -> Iterator[None]:
        """Turn errors of the operating system into errors for the person who runs the job."""
        try:
            yield
        except PromptmillError:
            raise
        except OSError as error:
            if error.errno in _FULL:
                raise StorageFull(
                    f"no space for {name} ({wanted:,} bytes) in {self.root}: {error.strerror}; free some and run again"
                ) from error
            if error.errno in _UNUSABLE:
                raise PlanRefused(f"output.path {self.root} cannot be used: {name}: {error.strerror}") from error
            raise


def _sync(folder: Path) -> None:
    """Make a folder's entries durable. File systems that cannot sync folders make them durable in their own way."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
