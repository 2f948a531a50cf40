#!/opt/promptmill/bin/python
"""Says by its exit code whether the container is healthy: a node of a Ray cluster is when its raylet answers.

It does not know how a job gets on: a job is well for as long as its process is there.
"""

from __future__ import annotations

import os
import re
import sys
import urllib.request
from pathlib import Path

AGENT_PORT = os.environ.get("PROMPTMILL_AGENT_PORT", "52365")  # Ray's --dashboard-agent-listen-port


def is_node(command: bytes) -> bool:
    """Whether a container's first process is `ray start`: by itself, below an init process, or in a shell's script.

    Args:
        command: Its arguments, each ended by a NUL byte, as /proc tells them.
    """
    return re.search(r"(^|[\s/;])ray start( |$)", os.fsdecode(command).replace("\0", " ")) is not None


def main() -> int:
    """Return the exit code."""
    if not is_node(Path("/proc/1/cmdline").read_bytes()):
        return 0
    request = urllib.request.Request(f"http://127.0.0.1:{AGENT_PORT}/api/local_raylet_healthz")
    with urllib.request.urlopen(request, timeout=4) as answer:
        return 0 if answer.read().strip() == b"success" else 1


if __name__ == "__main__":
    sys.exit(main())
