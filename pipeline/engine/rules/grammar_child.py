"""The child process of `grammar_guard`: reads sampling parameters, one JSON object per line, and answers with their errors.

The system ends it when a grammar takes more processor time or memory than it may.
"""

from __future__ import annotations

import json
import resource
import sys

from pipeline.engine.rules.grammar_guard import CPU_SECONDS
from pipeline.engine.rules.structured import check_grammar
from pipeline.machine import mapped_bytes
from pipeline.types import SamplingParams

_MOST_BYTES = 4 * 2**30
"""Address space for grammars, beside what the imports have taken: where cores are many, numpy's threads reserve gigabytes."""


def main() -> None:
    """Answer until the input ends."""
    most, given = mapped_bytes() + _MOST_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]
    most = most if given == resource.RLIM_INFINITY else min(most, given)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + CPU_SECONDS + 1
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        print(json.dumps(_told(json.loads(line))), flush=True)


def _told(values: dict[str, object]) -> str | None:
    try:
        check_grammar(SamplingParams(**values))  # type: ignore[arg-type]
    except MemoryError:
        raise
    except BaseException as error:  # a panic of the library is not an `Exception`
        return " ".join(str(error).split())[:300]
    return None


if __name__ == "__main__":
    main()
