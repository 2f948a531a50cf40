"""The first screen: the verdict, the figures, what to look at, where it comes from, and how to make it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pipeline.inspect.page.elements import Markup, code, facts, note, table, tiles
from pipeline.inspect.page.shell import Section
from pipeline.inspect.page.text import shown
from pipeline.inspect.report.subject import Subject
from pipeline.inspect.report.verdict import findings, verdict
from pipeline.inspect.report.wording import length, percent, size

_WEIGHTS = (".safetensors", ".gguf")


def head(subject: Subject) -> str:
    """Return what stands first."""
    notes = "".join(note(f.kind, f.text) for f in findings(subject))
    return f'<p class="verdict">{shown(verdict(subject))}</p>{_tiles(subject)}<div class="notes">{notes}</div>'


def section(subject: Subject) -> Section:
    """Return the section on where the output comes from."""
    again = subject.origin.command
    made = _predicted(subject) + "<h3>Provenance</h3>" + facts(_provenance(subject))
    if again is not None:
        made += "<h3>Make it again</h3>" + code(again)
    return Section("origin", "Origin", Markup(made))


def title(subject: Subject) -> str:
    """Return the page's title."""
    model = subject.origin.model
    what = "generations" if subject.generated else "scores"
    return f"{subject.rows:,} {what}" + (f" by {model}" if model else "")


def _tiles(subject: Subject) -> Markup:
    tally, rate, seconds = subject.measured.tally, subject.rate, subject.seconds
    samples = f"{tally.completions:,} completions" if tally.completions != tally.rows else ""
    there = f"{tally.rows:,} of them are there" if tally.rows != subject.rows else samples
    rows: list[tuple[str, object, object]] = [
        ("Rows", f"{subject.rows:,}", there),
        ("Errors", f"{subject.errors:,}", percent(subject.errors / tally.completions) if tally.completions else ""),
        ("Tokens generated" if subject.generated else "Tokens scored",
         f"{tally.completion_tokens:,}", f"{tally.prompt_tokens:,} of prompts"),
        ("Time", length(seconds), _beside(seconds, subject.prediction and subject.prediction.seconds, length)),
        ("Tokens per second", "not known" if rate is None else f"{rate:,.0f}",
         _beside(rate, subject.prediction and subject.prediction.tokens_per_second, lambda v: f"{v:,.0f}")),
    ]  # fmt: skip
    limit = subject.prediction.limit_tokens_per_second if subject.prediction is not None else None
    if limit and rate is not None:
        rows.append(("Of the machine's limit", percent(rate / limit), f"which is {limit:,.0f} tokens/s for this job"))
    return tiles(rows)


def _beside(actual: float | None, predicted: float | None, write: Any) -> str:
    """Return what was predicted and how far off it was."""
    if predicted is None or actual is None:
        return ""
    off = f", {abs(actual / predicted - 1):.0%} {'more' if actual > predicted else 'less'}" if predicted > 0 else ""
    return f"{write(predicted)} predicted{off}"


def _predicted(subject: Subject) -> str:
    p, tally = subject.prediction, subject.measured.tally
    if p is None:
        return ""
    pairs = [
        ("Rows", p.rows, tally.rows, "{:,}"), ("Rows that are errors", p.error_rows, subject.errors, "{:,}"),
        ("Prompt tokens", p.prompt_tokens, tally.prompt_tokens, "{:,}"),
        ("Generated tokens, at most", p.completion_tokens, tally.completion_tokens, "{:,}"),
        ("Time", p.seconds, subject.seconds, None), ("Tokens/s", p.tokens_per_second, subject.rate, "{:,.0f}"),
    ]  # fmt: skip
    lines = []
    for name, expected, came, form in pairs:
        write = length if form is None else form.format
        shown_ = ["not known" if value is None else write(value) for value in (expected, came)]
        ratio = f"{came / expected:.0%}" if expected and came is not None else ""
        lines.append([name, *shown_, ratio])
    memory = [
        (name, value)
        for name, value in (
            ("all", p.memory_bytes), ("weights", p.weight_bytes), ("KV cache", p.cache_bytes), ("a step", p.activation_bytes)
        )
        if value is not None
    ]  # fmt: skip
    said = ", ".join(f"{name} {size(value)}" for name, value in memory)
    more = f'<p class="muted">Memory of a replica as predicted: {said}.</p>' if said else ""
    return (
        '<h3 id="predicted">Predicted and actual</h3>'
        + table(["", "predicted", "actual", "actual / predicted"], lines, label="Predicted and actual")
        + more
    )


def _provenance(subject: Subject) -> list[tuple[str, object]]:
    made, origin = subject.made, subject.origin
    model: Mapping[str, Any] = made.get("model") or {}
    content: Mapping[str, str] = model.get("content") or {}
    environment = {**subject.measured.facts, **(subject.manifest.environment if subject.manifest is not None else {})}
    version = subject.manifest.promptmill_version if subject.manifest is not None else environment.get("promptmill")
    weights = {name: digest for name, digest in content.items() if name.endswith(_WEIGHTS)}
    tokenizer = {name: digest for name, digest in content.items() if name.startswith("tokenizer/")}
    threads = environment.get("threads")
    rows: list[tuple[str, object | None]] = [
        ("Model", origin.model), ("Commit", origin.commit or "none: a folder, or not recorded"),
        ("Licence", origin.licence or "not stated beside the model"),
        ("Weights, SHA-256", _digest(weights)), ("Tokenizer, SHA-256", _digest(tokenizer)),
        ("Number format", " · ".join(str(v) for v in (model.get("dtype"), _unless(model.get("quantization"), "none")) if v)),
        ("Sampling", ", ".join(f"{k}={json.dumps(v) if isinstance(v, list | dict) else v}" for k, v in _changed(subject).items())),
        ("promptmill", version), ("torch", environment.get("torch")), ("transformers", environment.get("transformers")),
        ("Processor", environment.get("processor")), ("Kernels", environment.get("compiled")),
        ("Replicas", f"{environment['replicas']}, {threads} threads each" if environment.get("replicas") and threads else None),
        ("Input", _inputs(subject)), ("Plan", Markup(f"<code>{shown(subject.plan.plan_id)}</code>") if subject.plan else None),
    ]  # fmt: skip
    return [(name, value) for name, value in rows if value not in (None, "")]


def _unless(value: object, ordinary: object) -> object | None:
    return None if value == ordinary else value


def _digest(files: Mapping[str, str]) -> Markup | None:
    """Return the digest of one file, or of several files' digests in the order of their names."""
    if not files:
        return None
    if len(files) == 1:
        return Markup(f"<code>{shown(next(iter(files.values())))}</code>")
    joined = hashlib.sha256("".join(f"{files[n]}  {n}\n" for n in sorted(files)).encode()).hexdigest()
    return Markup(f"<code>{shown(joined)}</code> <small>of the list of {len(files)} files</small>")


def _changed(subject: Subject) -> dict[str, Any]:
    """Return the sampling parameters that matter: the first few always, the others where they are not as usual."""
    if not subject.generated or not subject.made:
        return {}
    always = ("n", "temperature", "max_tokens", "seed")
    return {
        name: value for name, value in subject.sampling.items()
        if name in always or f"{name}={value}" in subject.truncating or (name in (*subject.changing, "stop", "stop_token_ids") and value)
    }  # fmt: skip


def _inputs(subject: Subject) -> str | None:
    if subject.plan is None:
        return None
    files = subject.plan.files
    names = ", ".join(f.name for f in files[:3]) + (f" and {len(files) - 3:,} more" if len(files) > 3 else "")
    return f"{names}: {sum(f.rows for f in files):,} rows"
