"""Writes the dataset card, a README.md that tells people what the output is and `load_dataset` where its files are."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.output.record.counts import Counts
from pipeline.output.record.manifest import Manifest
from pipeline.planning.plan import InputFile, Plan
from pipeline.wording import shortened

CARD = "README.md"
SAMPLE_CHARACTERS = 600
MOST_FILES = 20

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
          (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))  # fmt: skip


def dataset_card(
    manifest: Manifest,
    plan: Plan,
    *,
    model: str,
    sampling: Mapping[str, Any],
    schema: pa.Schema,
    title: str,
    meanings: Mapping[str, str],
    samples: Sequence[tuple[str | None, str | None]] = (),
) -> str:
    """Return the text of README.md, Markdown with YAML front matter.

    Text from outside (names, paths, values, texts) is shown literally: it can neither make markup nor change the front
    matter, which contains no such text.

    Args:
        manifest: The finished output.
        plan: Its plan.
        model: The model's hub id or directory, as a person would name it.
        sampling: Parameter → value; of a job that scores, its own options.
        schema: The parts' schema.
        title: What the rows are.
        meanings: Column → what it holds; the others were copied from the input.
        samples: (prompt, text) of a few rows to show.
    """
    pattern = f"data/{plan.plan8}-*.parquet"
    totals, scored = manifest.totals, "score" in plan.fingerprint
    made = {"prompt tokens": totals.prompt_tokens, "generated tokens": totals.completion_tokens, **_endings(totals)}
    read = "input rows" if scored else "prompts"
    if scored:
        made = {"scored tokens": round(totals.sums.get("scored_tokens", 0))}
    counts = {
        "input rows": totals.rows,
        "output rows" if scored else "completions": totals.completions,
        **made,
        **{f"errors: {code}": count for code, count in totals.errors.items()},
    }
    return "\n".join(
        [
            *_front_matter(pattern, totals.completions, scored=scored),
            f"# {title}\n",
            f"{totals.completions:,} output rows of {totals.rows:,} {read} by {_text(model)}, made with promptmill"
            f" {_text(manifest.promptmill_version)}.\n",
            *_table("Model", "", {"model": model, **_strings(manifest.environment)}),
            *_table("Scoring" if scored else "Sampling", "", _strings(sampling)),
            *_table("Counts", "", {name: f"{count:,}" for name, count in counts.items()}),
            *(_table("Figures", "", {n: f"{v:.6g}" for n, v in manifest.figures.items()}) if manifest.figures else []),
            *_inputs(plan),
            *_columns(schema, meanings),
            *_samples(samples),
            *_loading(pattern),
            "## Licence\n",
            "The licence of these texts is yours to choose, within what the model's licence and the prompts' licence"
            " allow; the model's licence applies to what is made with it.\n",
            f"Plan `{_hex(plan.plan_id)}`. `_job/manifest.json` has the SHA-256 of every part.",
            "",
        ]
    )


def _endings(totals: Counts) -> dict[str, int]:
    """Return how completions ended; empty if parts of an earlier version do not record it."""
    lengths = totals.lengths
    return {
        **{f"ended by {reason}": n for reason, n in totals.finish_reasons.items()},
        **{f"{name} completion, tokens": n for name, n in lengths.items()},
        **({"input rows clamped by the context": totals.clamped_rows} if totals.clamped_rows else {}),
        **({"structured completions cut off by max_tokens": totals.cut_off} if totals.cut_off else {}),
    }


def _front_matter(pattern: str, completions: int, *, scored: bool) -> list[str]:
    size = next((name for limit, name in _SIZES if completions < limit), "n>1B")
    return [
        "---",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        f"    path: {json.dumps(pattern)}",
        "task_categories:",
        "- text-generation",
        "tags:",
        "- promptmill",
        *([] if scored else ["- synthetic"]),  # texts that are scored were there before
        "size_categories:",
        f"- {size}",
        "---",
        "",
    ]


def _table(title: str, head: str, rows: Mapping[str, str]) -> list[str]:
    lines = [f"| {_text(name)} | {_text(value)} |" for name, value in rows.items()]
    return [f"## {title}\n", f"| {head} | |", "|---|---|", *lines, ""]


def _inputs(plan: Plan) -> list[str]:
    lines = [f"| {_text(f.name)} | {f.rows:,} | {_content(f)} |" for f in plan.files[:MOST_FILES]]
    if len(plan.files) > MOST_FILES:
        lines.append(f"| and {len(plan.files) - MOST_FILES:,} more | | |")
    return ["## Input\n", "| file | rows | content |", "|---|---|---|", *lines, ""]


def _content(file: InputFile) -> str:
    """Return what identifies the file's content in the plan, digests abbreviated."""
    known = file.identity()
    return _text(known["stamp"]) if "stamp" in known else f"SHA-256 {_hex(known['content'])[:16]}…"


def _columns(schema: pa.Schema, meanings: Mapping[str, str]) -> list[str]:
    lines = [
        f"| {_text(f.name)} | {_text(str(f.type))} | {meanings.get(f.name, 'copied from the input')} |" for f in schema
    ]
    return [
        "## Columns\n",
        "One row for each (`row_id`, `sample_index`), in the order of the input. Lists are aligned with `token_ids`.\n",
        "| column | type | meaning |",
        "|---|---|---|",
        *lines,
        "",
    ]


def _samples(samples: Sequence[tuple[str | None, str | None]]) -> list[str]:
    if not samples:
        return []
    lines = ["## Samples\n"]
    for prompt, text in samples:
        for title, value in (("Prompt", prompt), ("Text", text)):
            if value:
                lines += [f"{title}:\n", *_block(value), ""]
    return lines


def _loading(pattern: str) -> list[str]:
    return [
        "## How to load it\n",
        "In this folder, and for `datasets` in the one above it (which does not load a split without rows; the others do):\n",
        "```python",
        f'pandas.read_parquet(sorted(glob.glob("{pattern}")))',
        f'polars.scan_parquet("{pattern}")',
        f"duckdb.sql(\"SELECT * FROM '{pattern}'\")",
        'datasets.load_dataset("./FOLDER", split="train")',
        "```\n",
    ]


def _strings(values: Mapping[str, Any]) -> dict[str, str]:
    shown: Iterable[tuple[str, Any]] = values.items()
    plain = {k: isinstance(v, str) and (v.isprintable() or not v.isspace()) for k, v in shown}
    return {k: v if plain[k] else json.dumps(v, ensure_ascii=False, default=str) for k, v in shown}


def _text(value: str) -> str:
    """Escape text for one line of Markdown, in a paragraph or a table's cell."""
    line = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+", " ", value)
    marked = re.sub(r"([\\`*_\[\]|~#!$@])", r"\\\1", html.escape(line, quote=False))
    # Markdown turns bare addresses into links, but not if full stops and colons are character references.
    return re.sub(r"(?i)\bwww\.", "www&#46;", marked.replace("://", "&#58;//"))


def _block(value: str) -> list[str]:
    """Return text in a fenced block whose fence is longer than any in the text, so that the text cannot end it."""
    shown = shortened(value, SAMPLE_CHARACTERS)
    shown = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", "\ufffd", shown.replace("\r\n", "\n"))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return [f"{fence}text", *shown.split("\n"), fence]


def _hex(value: str) -> str:
    return re.sub(r"[^0-9a-f]", "", value)
