"""The results as one Markdown table: medians, ratios, shares of the limit, and whether the targets are met.

    python -m benchmarks.parts.table [--quality QUALITY.json] RESULTS.json …

Several files are taken together as one. It measures nothing. QUALITY.json has the perplexities of lines, with what they were
measured on, as `{"model": "…", "text": "…", "perplexity": {"promptmill int8": 20.1, "OpenVINO GenAI int8": 20.2}}`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.parts import arithmetic
from benchmarks.parts.arithmetic import Sizes

PRECISIONS = ("float32", "int8")
TARGETS = {
    ("uniform", "transformers"): {"float32": 2.4, "int8": 5.5},
    ("uniform", "vllm"): {"float32": 1.6, "int8": 3.7},
    ("uniform", "openvino"): {"float32": 1.65, "int8": 1.25},
    ("mixed", "transformers"): {"float32": 5.5, "int8": 12.0},
    ("mixed", "vllm"): {"float32": 3.0, "int8": 7.0},
    ("mixed", "openvino"): {"float32": 1.6, "int8": 1.25},
}
"""(Measurement, peer) → promptmill's precision → how many times as fast it is to be. OpenVINO's: in the same precision."""
BEST_PEER_TARGETS = {"few_shot": 1.5, "samples": 1.5}
"""Measurement → how many times as fast as the fastest peer (in the same precision, if one runs in it) promptmill is to be."""
SHARE_TARGETS = {"prefill": {"float32": 0.75, "int8": 0.60}, "decode": {"float32": 0.65, "int8": 0.45}}
"""Measurement → precision → share of the limit."""
MEMORY_TARGET = 1e9
"""Bytes over weights, keys and values."""

Run = dict[str, Any]


def against(value: float, target: float | None, unit: str, *, most: bool = False) -> str:
    """A figure, and beside it its target and whether it is met; `most`: the target is an upper bound."""
    shown = {"×": f"{value:.2f} ×", "%": f"{100 * value:.0f} %", "GB": f"{value / 1e9:.2f} GB"}[unit]
    if target is None:
        return shown
    wanted = {"×": f"{target:g}", "%": f"{100 * target:.0f} %", "GB": f"{target / 1e9:g} GB"}[unit]
    met = value <= target if most else value >= target
    return f"{shown} ({'≤' if most else '≥'} {wanted}: {'met' if met else '**not met**'})"


class Measurement:
    """The runs of one measurement, by line."""

    def __init__(self, name: str, runs: Sequence[Run]) -> None:
        """Take the runs of `name` that succeeded."""
        self.name = name
        mine = [run for run in runs if run["measurement"] == name and "figures" in run]
        self.limits = [run["figures"] for run in mine if run["engine"] == "limit"]
        self.lines: dict[str, list[Run]] = {}
        for run in mine:
            if run["engine"] != "limit":
                self.lines.setdefault(run["line"], []).append(run)

    @property
    def sizes(self) -> Sizes | None:
        """The model's sizes, where the limit was measured."""
        return Sizes(**self.limits[0]["sizes"]) if self.limits else None

    def limit(self, precision: str, key: str) -> float:
        """Median over the rounds of a figure of the limit."""
        return float(statistics.median(figures[precision][key] for figures in self.limits))

    def median(self, line: str, key: str) -> float | None:
        """Median over the rounds of a line's figure; None where it has none."""
        values = [run["figures"].get(key) for run in self.lines.get(line, [])]
        return None if not values or None in values else statistics.median(values)

    def fastest(self, engine: str, precision: str) -> str | None:
        """An engine's fastest line in a precision."""
        found = [
            n for n, runs in self.lines.items() if (runs[0]["engine"], runs[0]["precision"]) == (engine, precision)
        ]
        return max(found, key=lambda name: self.median(name, "tok_s") or 0.0, default=None)

    def best_peer(self, precision: str) -> str | None:
        """The fastest line that is not promptmill's, of those in a precision, or of all if none is."""
        others = {name: runs[0]["precision"] for name, runs in self.lines.items() if runs[0]["engine"] != "promptmill"}
        found = [name for name, its in others.items() if its == precision] or list(others)
        return max(found, key=lambda name: self.median(name, "tok_s") or 0.0, default=None)

    def row(self, line: str) -> str:
        """A line of the table."""
        if self.name == "decode":
            return self._decode_row(line)
        speed, figures = self.median(line, "tok_s"), self.lines[line][0]["figures"]
        precision = self.lines[line][0]["precision"]
        unit, cells = 1.0, [self._ratio(line, own) for own in PRECISIONS]
        generated = counted = ""
        if self.sizes is not None:
            rate, seconds = self.limit(precision, "rate"), self.median(line, "seconds") or 0.0
            read = figures.get("distinct_prompt_tokens", figures["prompt_tokens"])
            completions = figures.get("completions", figures["requests"])
            flops = arithmetic.work_flops(self.sizes, read, figures["tokens"], completions)
            share = flops / seconds / rate
            generated = f"{100 * arithmetic.limit_share(self.sizes, rate, speed or 0.0):.0f} %"
            counted = against(share, SHARE_TARGETS.get(self.name, {}).get(precision), "%")
        if self.name == "prefill":  # what counts are the tokens that are read
            unit, generated, cells = figures["prompt_tokens"] / figures["tokens"], "", ["", ""]
        values = [run["figures"]["tok_s"] * unit for run in self.lines[line]]
        return _row(self.name, line, f"{(speed or 0.0) * unit:.1f}", _each(values), generated, counted, *cells)

    def _decode_row(self, line: str) -> str:
        """The steps in which every sequence decodes, against the model's own products at as many rows."""
        step, first = self.median(line, "full_step_seconds"), self.lines[line][0]
        if step is None:
            return _row(self.name, line, "no step was full", "", "", "", "", "")
        rows = first["figures"]["batch"]
        target, share = SHARE_TARGETS["decode"][first["precision"]], ""
        if self.limits:
            share = against(self.limit(first["precision"], "step_seconds") / step, target, "%")
        values = [rows / run["figures"]["full_step_seconds"] for run in self.lines[line]]
        return _row(f"{self.name}, {rows} sequences", line, f"{rows / step:.1f}", _each(values), "", share, "", "")

    def _ratio(self, line: str, own: str) -> str:
        """How many times as fast as `line` promptmill's fastest is in a precision, with the target where there is one."""
        fastest = self.fastest("promptmill", own)
        base, speed = self.median(fastest or "", "tok_s"), self.median(line, "tok_s")
        engine, precision = (self.lines[line][0][key] for key in ("engine", "precision"))
        if base is None or not speed or line == fastest:
            return ""
        target = TARGETS.get((self.name, engine), {}).get(own)
        if engine == "openvino" and line != self.fastest(engine, own):
            target = None  # another precision, or not its fastest setting
        if line == self.best_peer(own):
            target = BEST_PEER_TARGETS.get(self.name, target)
        return against(base / speed, target, "×") if engine != "promptmill" or precision == own else ""

    def memory_rows(self) -> list[str]:
        """Memory over weights, keys and values, from the runs of `uniform`."""
        made = []
        for precision in PRECISIONS:
            line = f"promptmill {precision}"
            peak = self.median(line, "peak_bytes")
            if self.name != "uniform" or self.sizes is None or peak is None:
                continue
            figures = self.lines[line][0]["figures"]
            weights = arithmetic.weight_bytes(self.sizes, precision)
            kv = arithmetic.kv_bytes(self.sizes, figures["lengths"], figures["batch"])
            parts = f"{peak / 1e9:.2f} GB less {weights / 1e9:.2f} of weights, {kv / 1e9:.2f} of keys and values"
            over = against(peak - weights - kv, MEMORY_TARGET, "GB", most=True)
            made.append(_row("memory, uniform", line, over, parts, "", "", "", ""))
        return made

    def limit_notes(self) -> list[str]:
        """The limit in words."""
        if self.sizes is None:
            return []
        flops, first, notes = arithmetic.token_flops(self.sizes), self.limits[0], []
        for precision in PRECISIONS:
            rate, step = self.limit(precision, "rate"), self.limit(precision, "step_seconds")
            product, step_product = first[precision]["product"], first[precision]["step_product"]
            notes.append(
                f"- {self.name}, {precision}: {rate / 1e9:.0f} GFLOP/s ({product}), so {rate / flops:.1f} tok/s at "
                f"{flops / 1e9:.3g} GFLOP a token; the products of a step of {first['rows']} rows: "
                f"{1e3 * step:.4g} ms ({step_product})"
            )
        return notes


def _each(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


HEAD = _row(
    "measurement", "engine", "tok/s", "runs", "of the GEMM limit", "prompts counted",
    "promptmill float32 is", "promptmill int8 is",
)  # fmt: skip


def quality_notes(quality: dict[str, Any] | None, measurements: Sequence[Measurement]) -> list[str]:
    """What speeds in int8 are worth: perplexities where they are known, and whose are not."""
    kinds = {name: runs[0] for one in measurements for name, runs in one.lines.items()}
    int8 = [name for name, run in kinds.items() if run["precision"] == "int8"]
    if len({kinds[name]["engine"] for name in int8}) < 2 and not quality:
        return []
    known = quality["perplexity"] if quality else {}
    notes = [f"- {name}: {known[name]:.4f}" for name in kinds if name in known]
    head = f"Perplexity of {quality['model']} on {quality['text']}:" if quality else "Perplexity:"
    missing = [name for name in int8 if name not in known]
    notes += [f"- not known, so not compared at equal quality: {'; '.join(missing)}"] if missing else []
    return [head, "", *notes, ""]


def render(results: Sequence[dict[str, Any]], quality: dict[str, Any] | None = None) -> str:
    """The table with what it rests on: machine, limits, perplexities, what failed and what is absent."""
    runs: list[Run] = [run for result in results for run in result["runs"]]
    first, machine = results[0], results[0]["machine"]
    names = list(dict.fromkeys(run["measurement"] for run in runs))
    measurements = [Measurement(name, runs) for name in names]
    text = [
        "",
        f"{first['model']}; {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB; {first['date']}",
        *(f"held to {name}={value}" for name, value in machine.get("caps", {}).items()),
        "",
        HEAD,
        "|---|---|---:|---|---:|---:|---:|---:|",
        *(measurement.row(line) for measurement in measurements for line in measurement.lines),
        *(row for measurement in measurements for row in measurement.memory_rows()),
        "",
    ]
    notes = [note for measurement in measurements for note in measurement.limit_notes()]
    text += ["The GEMM limit, measured between the runs:", "", *notes, ""] if notes else []
    text += quality_notes(quality, measurements)
    text += [f"Failed: {r['measurement']}, {r['line']}: {r['error']}" for r in runs if "error" in r]
    missing = set.intersection(*(set(result["absent"]) for result in results))
    text += [f"Absent: {', '.join(sorted(missing))}"] if missing else []
    return "\n".join(text)


def main() -> None:
    """Read, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="RESULTS.json")
    parser.add_argument("--quality", type=Path, metavar="QUALITY.json")
    arguments = parser.parse_args()
    quality = json.loads(arguments.quality.read_text()) if arguments.quality else None
    print(render([json.loads(file.read_text()) for file in arguments.files], quality))


if __name__ == "__main__":
    main()
