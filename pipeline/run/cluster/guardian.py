"""Ends what a Ray of a job's own leaves behind, whatever became of the job: its processes, and its folder of sockets and logs.

A process of its own waits for the job's end, which it sees by the closing of a pipe: that comes after SIGKILL, too. The
file is run as a script that knows nothing but the standard library, so that it costs little.
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
"""The environment variable that the processes of one Ray inherit; those that give themselves a title may overwrite it."""
GRACE = 3.0
"""Seconds that they have to end by themselves, as they do when Ray sees that its driver is gone."""
LAST = 10.0
"""Seconds for which they are ended again and again."""
LONGEST = 40
"""Characters that the folder of temporary files may have: Ray's sockets are below it, and their paths are limited to 107."""


class Guardian:
    """Waits beside a job, with a folder for its Ray."""

    def __init__(self) -> None:
        """Make the folder and start the process. What is started after this is marked as belonging to the job."""
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
        """Have what is left ended and removed at once, and wait for that."""
        os.environ.pop(MARK, None)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"done")
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # then it goes on alone
            self._process.wait(timeout=2 * GRACE)


def left(mark: str, folder: str, job: int) -> list[int]:
    """The processes of a Ray: those that inherited its mark, or write to a file in its folder, such as their log.

    So does the job itself, which is left alone.
    """
    others = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()} - {os.getpid(), job}
    return [pid for pid in others if _is_marked(pid, mark) or _is_at_work_in(pid, folder)]


def _is_marked(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False  # ended since, or another user's


def _is_at_work_in(pid: int, folder: str) -> bool:
    try:
        for opened in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                # The link's own permissions say how it is open: who only reads a log, as `tail` does, is left alone.
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
    # Again and again: while the processes are looked through, one of them may start another.
    end = time.monotonic() + LAST
    while (found := left(mark, folder, job)) and time.monotonic() < end:
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Wait until the pipe closes, then clean up. Signals of a terminal do not come here: it is a session of its own."""
    mark, folder, job = sys.argv[1:]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    orderly = sys.stdin.buffer.read()
    clean_up(mark, folder, int(job), 0.2 if orderly else GRACE)


if __name__ == "__main__":
    main()
