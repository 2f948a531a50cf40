"""The child process of `grammar_guard`: reads sampling parameters, one JSON object per line, and answers with their errors.

The system ends it when a grammar takes more processor time or memory than it may.
"""

from __future__ import annotations

import json
import resource
import sys

from pipeline.engine.rules.grammar_guard import CPU_SECONDS
from pipeline.engine.rules.structured import check_grammar
from pipeline.types import SamplingParams

_MOST_BYTES = 4 * 2**30


def main() -> None:
    """Answer until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
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
