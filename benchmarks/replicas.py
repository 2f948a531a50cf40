"""What it costs to share a machine's cores among replicas: one with all of them against one for each, alternately.

The same job runs on a Ray of its own, with one replica of N threads and with N replicas of one. Its rate is that of the
whole: tokens by the time from the first shard that is handed out to the last that is committed, the end included, at which
replicas run dry one after the other. Loading is left out.

python -m benchmarks.replicas [ROUNDS] [MODEL] [ROWS]
"""

from __future__ import annotations

import datetime
import json
import statistics
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.parts.machine import describe
from benchmarks.parts.sizes import make_model
from jobs.generate import main as generate
from pipeline.machine import cores

PROMPT_TOKENS, NEW_TOKENS, SHARD_ROWS = 32, 64, 32


def main() -> None:
    """Run both alternately, and print one JSON line."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    name = sys.argv[2] if len(sys.argv) > 2 else "gpt2"
    rows = int(sys.argv[3]) if len(sys.argv) > 3 else 512
    many = cores()
    rates: dict[str, list[float]] = {"one": [], "many": []}
    with tempfile.TemporaryDirectory(prefix="promptmill-replicas-") as folder:
        model = make_model(name, Path(folder) / "model")
        source = prompts(Path(folder) / "prompts.parquet", rows)
        for number in range(rounds):
            for kind, replicas, threads in (("one", 1, many), ("many", many, 1)):
                output = Path(folder) / f"{kind}-{number}"
                code = generate([
                    f"model.path={model}", f"source.path={source}", f"output.path={output}", "source.token_ids_column=ids",
                    f"sampling.max_tokens={NEW_TOKENS}", "sampling.ignore_eos=true", f"output.rows_per_shard={SHARD_ROWS}",
                    f"cluster.replicas={replicas}", f"cluster.cpus_per_replica={threads}", f"cluster.min_replicas={replicas}",
                ])  # fmt: skip
                assert code == 0, code
                rates[kind].append(rows * NEW_TOKENS / seconds_at_work(output))
    medians = {kind: statistics.median(found) for kind, found in rates.items()}
    print(json.dumps({
        "model": name, "rows": rows, "replicas": many, "tokens_per_second": rates,
        "share": round(medians["many"] / medians["one"], 4), **describe(),
    }))  # fmt: skip


def prompts(path: Path, rows: int) -> Path:
    """Write prompts of token ids that have nothing in common."""
    ids = [[(row * 7919 + place * 104729) % 50000 for place in range(PROMPT_TOKENS)] for row in range(rows)]
    pq.write_table(pa.table({"ids": pa.array(ids, pa.list_(pa.int32()))}), path)
    return path


def seconds_at_work(output: Path) -> float:
    """From the first shard that was handed out to the last that was committed, by the run's own events."""
    (log,) = (output / "_job" / "events").iterdir()
    events = [json.loads(line) for line in log.read_text().splitlines()]
    begun = [moment(event["time"]) for event in events if event["event"] == "shard_started"]
    done = [moment(event["time"]) for event in events if event["event"] == "shard_committed"]
    return max(done) - min(begun)


def moment(time: float | str) -> float:
    """Seconds since 1970 of an event's time."""
    return time if isinstance(time, float) else datetime.datetime.fromisoformat(time).timestamp()


if __name__ == "__main__":
    main()
