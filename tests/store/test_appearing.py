from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import PlanRefused, StorageFull
from pipeline.store.appearing import Appearing, full_is_told

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["nameless", "named", "without links"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a file system that has files without names, one that has not, and one that has no links either."""
    opened, linked = os.open, os.link

    def open_(path: str, flags: int, *rest: int, **options: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return opened(path, flags, *rest, **options)

    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if request.param != "nameless":
        monkeypatch.setattr(os, "open", open_)
    if request.param == "without links":
        monkeypatch.setattr(os, "link", link)
    assert linked is not None
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_appears_whole(folder: Path) -> None:
    made = Appearing(folder)
    made.file.write(b"one")
    assert "x" not in names(folder)
    made.file.write(b"two")
    assert made.appear("x") == 6
    assert (folder / "x").read_bytes() == b"onetwo" and names(folder) == ["x"]
    assert (folder / "x").stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_it_replaces_nothing(folder: Path) -> None:
    made = Appearing(folder)
    made.file.write(b"mine")
    (folder / "x").write_bytes(b"another's")
    with pytest.raises(FileExistsError):
        made.appear("x")
    made.close()
    assert (folder / "x").read_bytes() == b"another's" and names(folder) == ["x"]


def test_given_up_it_is_gone(folder: Path) -> None:
    made = Appearing(folder)
    made.file.write(b"x")
    made.close()
    assert names(folder) == []


KILLED = """
import errno, os, sys
from pathlib import Path
opened = os.open
def open_(path, flags, *rest, **options):
    if sys.argv[2] == "named" and flags & os.O_TMPFILE == os.O_TMPFILE:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")
    return opened(path, flags, *rest, **options)
os.open = open_
from pipeline.store.appearing import Appearing
made = Appearing(Path(sys.argv[1]))
made.file.write(b"x" * 100_000)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("kind", ["nameless", "named"])
def test_what_a_killed_process_leaves_is_removed_by_the_next(kind: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), kind], env=environment, check=False)
    assert done.returncode == -9
    assert len(names(tmp_path)) == (1 if kind == "named" else 0)
    (tmp_path / ".promptmill-mine.tmp").touch()
    Appearing(tmp_path).close()
    assert names(tmp_path) == [".promptmill-mine.tmp"], "whose writer cannot be known to be gone"


def test_a_folder_that_cannot_be_written_to() -> None:
    with pytest.raises(PlanRefused, match="/proc: nothing can be written there: "):
        Appearing(Path("/proc"))


def test_a_full_storage_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageFull, match="No space left on device; free some"),
        full_is_told(tmp_path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="Input/output"), full_is_told(tmp_path):
        raise OSError(errno.EIO, "Input/output error")
