"""A local file that is written little by little, and gets its name when it is whole.

Until then it has none (`O_TMPFILE`), so that nothing is left of a process that was killed; where the file system has no such
files, its name begins with a dot and says who writes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import PlanRefused, StorageFull
from pipeline.store.process import is_gone, me

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NAMELESS_UNKNOWN = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.EISDIR, errno.ENOENT, errno.EINVAL}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOENT, errno.EXDEV}
_PREFIX, _SUFFIX = ".promptmill-", ".tmp"


class Appearing:
    """A file in a folder that is there already.

    Attributes:
        file: What to write it with, and to read in it.
    """

    def __init__(self, folder: Path) -> None:
        """Begin a file in `folder`, and remove what writers that are gone have left there.

        Raises:
            PlanRefused: If nothing can be written there.
        """
        self._folder = folder
        self._temporary: Path | None = None
        try:
            self._sweep()
            self.file = self._opened()
        except OSError as error:
            raise PlanRefused(f"{folder}: nothing can be written there: {error.strerror}") from error

    def _opened(self) -> BinaryIO:
        try:
            handle = os.open(self._folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno not in _NAMELESS_UNKNOWN:
                raise
            self._temporary = self._folder / f"{_PREFIX}{me()}.{secrets.token_hex(8)}{_SUFFIX}"
            handle = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        return os.fdopen(handle, "w+b")

    def _sweep(self) -> None:
        for path in self._folder.glob(f"{_PREFIX}*{_SUFFIX}"):
            if is_gone(path.name.removeprefix(_PREFIX).partition(".")[0]):
                path.unlink(missing_ok=True)

    def appear(self, name: str) -> int:
        """Give the file its name, durably, and return how many bytes it has.

        Raises:
            FileExistsError: If there is something of that name.
        """
        final = self._folder / name
        self.file.flush()
        os.fsync(self.file.fileno())
        size = os.fstat(self.file.fileno()).st_size
        if self._temporary is None and not self._linked(final):
            raise PlanRefused(
                f"{self._folder}: the file system cannot link an unnamed temporary file (O_TMPFILE); choose another folder"
            )
        if self._temporary is not None:
            self._renamed(self._temporary, final)
        handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # a file system that cannot sync folders keeps them in its own way
            os.fsync(handle)
        os.close(handle)
        self.close()
        return size

    def _linked(self, final: Path) -> bool:
        handle = self.file.fileno()
        try:
            # Any folder given as `src_dir_fd` makes Python call linkat, which follows the kernel's link to the file.
            os.link(f"/proc/self/fd/{handle}", final, src_dir_fd=handle, follow_symlinks=True)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno in _NO_LINKS:
                return False
            raise
        return True

    @staticmethod
    def _renamed(temporary: Path, final: Path) -> None:
        try:
            os.link(temporary, final)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(final):
                raise FileExistsError(final) from error
            temporary.rename(final)

    def close(self) -> None:
        """Close it; without a name by now, it is gone."""
        with contextlib.suppress(OSError):  # of what was not written yet
            self.file.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def full_is_told(folder: Path) -> Iterator[None]:
    """Turn what the operating system says of a full storage into an error for the person who runs the job."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StorageFull(
            f"no space left in {folder}: {os.strerror(error.errno or 0)}; free some and run again"
        ) from error
