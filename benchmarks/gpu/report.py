"""What is kept of each part: an event a line in a file as soon as it is known, and a table of all of them at the end.

It does not know what is measured, and imports no torch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST_TABLE = 9_500
"""Characters."""
LONGEST_NOTE = 130
COMPARED = ("throughput", "other sizes", "continuous batching")
"""Parts whose runs have no options."""
Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reporter:
    """Prints and keeps the events of one part."""

    file: Path
    part: str

    def row(self, what: str, value: float | str, unit: str = "", note: str = "", good: bool | None = None) -> None:
        """A result; `good` tells whether a limit is kept, None where there is none."""
        self.event("row", what=what, value=value, unit=unit, note=note, good=good)
        print(f"  {what}: {shown(value)} {unit}  {note}{_verdict(good)}", flush=True)

    def event(self, kind: str, **values: Any) -> None:
        """Keep an event."""
        with self.file.open("a") as out:
            out.write(json.dumps({"part": self.part, "event": kind, "time": round(time.time(), 3), **values}) + "\n")


def read(file: Path) -> list[Event]:
    """All events so far."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]


def ends(events: Sequence[Event]) -> dict[str, str]:
    """Part → `done`, or why it is not; parts that never started are not there."""
    found: dict[str, str] = {}
    for event in events:
        if event["event"] == "start":
            found[event["part"]] = "did not end"
        elif event["event"] in ("done", "failed", "died", "skipped"):
            found[event["part"]] = "done" if event["event"] == "done" else f"{event['event']}: {event['why']}"
    return found


def failures(events: Sequence[Event]) -> list[str]:
    """Parts that failed, or have a result that is not good; a part that was left out for lack of time is neither."""
    bad = {part for part, end in ends(events).items() if end != "done" and not end.startswith("skipped")}
    return sorted(bad | {event["part"] for event in events if event["event"] == "row" and event["good"] is False})


def table(events: Sequence[Event]) -> str:
    """Everything as Markdown, shorter than LONGEST_TABLE; what does not fit is in the file."""
    lines = ["| part | what | value | | |", "|---|---|---:|---|---|"]
    for event in (event for event in events if event["event"] == "row"):
        cells = [
            event["part"], event["what"], f"{shown(event['value'])} {event['unit']}".strip(),
            event["note"][:LONGEST_NOTE], _verdict(event["good"]).strip(),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    others = [f"- {part}: {end.splitlines()[-1][:300]}" for part, end in ends(events).items() if end != "done"]
    tail = "\n".join(["", "", *ratios(events), *others])
    while len("\n".join(lines)) + len(tail) > LONGEST_TABLE and len(lines) > 2:
        lines.pop()
    return "\n".join(lines) + tail


def ratios(events: Sequence[Event]) -> list[str]:
    """For each workload the best run of every engine, whatever its batch, as promptmill's times theirs."""
    best: dict[str, dict[str, tuple[float, str]]] = {}
    for event in (e for e in events if e["event"] == "run" and e["part"] in COMPARED):
        engine, _, batch = event["engine"].rpartition(" ")
        of_load = best.setdefault(event["load"], {})
        of_load[engine] = max(of_load.get(engine, (0.0, "")), (event["tokens"] / event["seconds"], batch))
    lines = []
    for load, engines in best.items():
        own, seqs = engines.pop("promptmill", (0.0, "none"))
        lines += [
            f"- {load}, best runs: promptmill {own:,.0f} ({seqs} at once) ÷ {engine} {rate:,.0f} ({batch}) = {own / rate:.3g} ×"
            for engine, (rate, batch) in engines.items()
        ]
    return lines


def shown(value: float | str) -> str:
    """A number in four digits."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _verdict(good: bool | None) -> str:
    return "" if good is None else "  ok" if good else "  **NOT GOOD**"
