"""Cleans up after the job's own Ray, however the job ended: its processes, and its folder of sockets and logs.

A separate process waits for the job's end, which closes a pipe, even after SIGKILL. This file runs as a script that imports
only the standard library, so that the process is small.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PREFIX = "promptmill-ray-"
MARK = "PROMPTMILL_RAY"
"""The environment variable that marks the processes of one Ray; processes that set their title may overwrite it."""
GRACE = 3.0
"""Seconds for the processes to end by themselves, as they do when Ray sees that its driver is gone."""
LAST = 10.0
"""Seconds for which remaining processes are killed repeatedly."""
LONGEST = 40
"""Most characters of the temporary folder's path: Ray's sockets are in it, and their paths are limited to 107."""


class Guardian:
    """Runs beside a job, with a folder for the job's Ray."""

    def __init__(self) -> None:
        """Make the folder and start the process. Processes started after this carry the job's mark."""
        short = None if len(tempfile.gettempdir()) <= LONGEST - len(PREFIX) else "/tmp"
        self.folder = tempfile.mkdtemp(prefix=PREFIX, dir=short)
        mark = secrets.token_hex(16)
        os.environ[MARK] = mark
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, mark, self.folder, str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env={"PATH": os.environ.get("PATH", "")},
        )  # fmt: skip

    def close(self) -> None:
        """Clean up now, and wait for it."""
        os.environ.pop(MARK, None)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"done")
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # then it continues alone
            self._process.wait(timeout=2 * GRACE)


def left(mark: str, folder: str, job: int) -> list[int]:
    """Return the processes of a Ray: those that inherited its mark, or write to a file in its folder, such as their log.

    The job itself does too, but is left out.
    """
    others = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()} - {os.getpid(), job}
    return [pid for pid in others if _is_marked(pid, mark) or _is_at_work_in(pid, folder)]


def _is_marked(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False  # ended meanwhile, or another user's


def _is_at_work_in(pid: int, folder: str) -> bool:
    try:
        for opened in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                # The link's own permissions show how the file is open: readers of a log, such as `tail`, are left alone.
                if opened.lstat().st_mode & stat.S_IWUSR and str(opened.readlink()).startswith(f"{folder}/"):
                    return True
    except OSError:
        pass
    return False


def clean_up(mark: str, folder: str, job: int, grace: float = GRACE) -> None:
    """Wait for the processes to end, end those that do not, and remove the folder."""
    end = time.monotonic() + grace
    while left(mark, folder, job) and time.monotonic() < end:
        time.sleep(0.05)
    # Repeatedly, because a process may start another one during the search.
    end = time.monotonic() + LAST
    while (found := left(mark, folder, job)) and time.monotonic() < end:
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Wait until the pipe closes, then clean up. The process has its own session, so it gets no signals from a terminal."""
    mark, folder, job = sys.argv[1:]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    orderly = sys.stdin.buffer.read()
    clean_up(mark, folder, int(job), 0.2 if orderly else GRACE)


if __name__ == "__main__":
    main()
