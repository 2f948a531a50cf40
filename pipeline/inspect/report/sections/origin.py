"""The section on where an output comes from: model, weights, tokenizer, settings, machine; and what was predicted of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pipeline.inspect.page.elements import Markup, facts, table
from pipeline.inspect.page.shell import Section
from pipeline.inspect.page.text import shown
from pipeline.inspect.report.subject import Subject
from pipeline.inspect.report.wording import length, size
from pipeline.wording import shortened

_WEIGHTS = (".safetensors", ".gguf")
_BRIEF = 16
"""Digits of a digest on the first screen."""


def section(subject: Subject) -> Section:
    """Return the section."""
    details = facts(_known(_details(subject)))
    return Section("origin", "Origin", Markup(f"{details}{_predicted(subject)}"))


def brief(subject: Subject) -> list[tuple[str, object]]:
    """Return what the first screen says of it."""
    origin, model = subject.origin, _model(subject)
    number = " · ".join(str(v) for v in (model.get("dtype"), _unless(model.get("quantization"), "none")) if v)
    return _known([
        ("Model", origin.model), ("Number format", number),
        ("Commit", origin.commit or ("none: a folder" if origin.model else None)),
        ("Licence", origin.licence or ("not stated beside the model" if origin.model else None)),
        ("Weights", _digest(subject, _WEIGHTS, _BRIEF)), ("Tokenizer", _digest(subject, (), _BRIEF)),
        ("promptmill", _version(subject)), ("Sampling", _settings(subject)),
    ])  # fmt: skip


def _predicted(subject: Subject) -> str:
    p, tally = subject.prediction, subject.measured.tally
    if p is None:
        return ""
    pairs = [
        ("Rows", p.rows, tally.rows, "{:,}"), ("Rows that are errors", p.error_rows, tally.error_rows, "{:,}"),
        ("Prompt tokens", p.prompt_tokens, tally.prompt_tokens, "{:,}"),
        (*_made(subject, p.completion_tokens), "{:,.0f}"),
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


def _made(subject: Subject, predicted: int) -> tuple[str, float, float | None]:
    """Return what is counted of the tokens, what was predicted of it, and what came."""
    if subject.generated:
        return "Generated tokens, at most", predicted, subject.measured.tally.completion_tokens
    sums = subject.manifest.totals.sums if subject.manifest is not None else {}
    return "Scored tokens", predicted, sums.get("scored_tokens")


def _details(subject: Subject) -> list[tuple[str, object | None]]:
    environment = _environment(subject)
    threads = environment.get("threads")
    return [
        ("Weights, SHA-256", _digest(subject, _WEIGHTS)), ("Tokenizer, SHA-256", _digest(subject, ())),
        ("Plan", Markup(f"<code>{shown(subject.plan.plan_id)}</code>") if subject.plan else None),
        ("Input", _inputs(subject)), ("promptmill", _version(subject)), ("torch", environment.get("torch")),
        ("transformers", environment.get("transformers")), ("Processor", environment.get("processor")),
        ("Kernels", environment.get("compiled")),
        ("Replicas", f"{environment['replicas']}, {threads} threads each" if environment.get("replicas") and threads else None),
        ("Statistics", ", ".join((subject.made.get("stats") or {}).get("columns") or []) or "none"),
    ]  # fmt: skip


def _known(pairs: list[tuple[str, object | None]]) -> list[tuple[str, object]]:
    return [(name, value) for name, value in pairs if value not in (None, "")]


def _model(subject: Subject) -> Mapping[str, Any]:
    return subject.made.get("model") or {}


def _environment(subject: Subject) -> dict[str, Any]:
    return {**subject.measured.facts, **(subject.manifest.environment if subject.manifest is not None else {})}


def _version(subject: Subject) -> object | None:
    return (
        subject.manifest.promptmill_version if subject.manifest is not None else _environment(subject).get("promptmill")
    )


def _unless(value: object, ordinary: object) -> object | None:
    return None if value == ordinary else value


def _digest(subject: Subject, endings: tuple[str, ...], digits: int | None = None) -> Markup | None:
    """Return the digest of a file, or of several files' digests in the order of their names.

    Args:
        subject: The subject.
        endings: Endings of the files' names; none: the tokenizer's files.
        digits: How many to show; None: all.
    """
    content: Mapping[str, str] = _model(subject).get("content") or {}
    files = {
        name: digest for name, digest in content.items()
        if (name.endswith(endings) if endings else name.startswith("tokenizer/"))
    }  # fmt: skip
    if not files:
        return None
    found = next(iter(files.values()))
    if len(files) > 1:
        found = hashlib.sha256("".join(f"{files[n]}  {n}\n" for n in sorted(files)).encode()).hexdigest()
    kept = f"{found[:digits]}…" if digits else found
    return Markup(f"<code>{shown(kept)}</code>" + (f" <small>of {len(files)} files</small>" if len(files) > 1 else ""))


def _settings(subject: Subject) -> str:
    values = {k: json.dumps(v) if isinstance(v, list | dict) else str(v) for k, v in _changed(subject).items()}
    return ", ".join(f"{name}={shortened(value, 100)}" for name, value in values.items())


def _changed(subject: Subject) -> dict[str, Any]:
    """Return the sampling parameters that matter: the first few always, the others where they are not as usual."""
    if not subject.generated or not subject.made:
        return {}
    always = ("n", "temperature", "max_tokens", "seed")
    others = (*subject.changing, *(name for name in ("stop", "stop_token_ids") if subject.sampling[name]))
    return {
        name: value for name, value in subject.sampling.items()
        if name in (*always, *others) or f"{name}={value}" in subject.truncating
    }  # fmt: skip


def _inputs(subject: Subject) -> str | None:
    if subject.plan is None:
        return None
    files = subject.plan.files
    names = ", ".join(f.name for f in files[:3]) + (f" and {len(files) - 3:,} more" if len(files) > 3 else "")
    return f"{names}: {sum(f.rows for f in files):,} rows"
