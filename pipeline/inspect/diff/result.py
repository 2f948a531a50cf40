"""What a comparison found: its numbers, its verdict in a sentence, and all of it as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipeline.inspect.diff.cause import COPIED, GENERATED, ROWS, Cause, Explanation, Seen, explain
from pipeline.inspect.diff.differing import plain_type
from pipeline.inspect.diff.matching import Matched
from pipeline.inspect.diff.sides import Side
from pipeline.inspect.diff.tally import KINDS, PROMPTS, Example, Tally
from pipeline.inspect.diff.texts import Tokens
from pipeline.wording import counted

BROKEN = (
    "nothing that decides the bytes differs in plan or environment, and still rows do: this breaks the promise of the same "
    "bytes; run `promptmill verify output.path=… replay=20` on both, which tells the side that is wrong, and report it"
)
COPIES = (
    "prompts or kept columns differ, and nothing in plan or environment tells why: run `promptmill verify` on both, which says "
    "whether one is damaged"
)
LOST = "rows are missing though no part is: run `promptmill verify` on both, which says how to repair it"


@dataclass(frozen=True, slots=True)
class Difference:
    """The result of a comparison.

    Attributes:
        a: One output.
        b: The other.
        matched: How their rows belong together.
        tally: What differs in the rows that both have.
        explanation: Why.
        compared: The columns that were compared.
        tokens: Spells tokens, if a tokenizer is at hand.
    """

    a: Side
    b: Side
    matched: Matched
    tally: Tally
    explanation: Explanation
    compared: tuple[str, ...]
    tokens: Tokens

    @property
    def equal(self) -> bool:
        """Whether both have the same rows, in the columns that both have."""
        return not (self.tally.different or self.matched.only_a.rows or self.matched.only_b.rows)

    def columns(self) -> dict[str, list[str]]:
        """Return the columns that only one side has, and those that have other types."""
        a, b = (() if s.schema is None else tuple(s.schema.names) for s in (self.a, self.b))
        return {
            "only_in_a": [n for n in a if n not in b and b],
            "only_in_b": [n for n in b if n not in a and a],
            "of_other_types": [
                n for n in a if n in b and n not in self.compared and n not in ("row_id", "sample_index")
            ],
        }

    def verdict(self) -> str:
        """Say in a sentence what was found."""
        both = self.tally.equal + self.tally.different
        if self.equal:
            columns = self.columns()
            where = " in all columns that both have" if any(columns.values()) else ""
            order = ", in another order" if self.matched.same_order is False else ""
            so_far = " so far" if self.a.missing_parts or self.b.missing_parts else ""
            return f"equal{so_far}: {counted(both, 'row')}{order}{where}"
        only = [
            f"{lonely.rows:,} only in {name}"
            for name, lonely in (("a", self.matched.only_a), ("b", self.matched.only_b)) if lonely.rows
        ]  # fmt: skip
        return f"different: {', '.join([f'{self.tally.different:,} of {both:,} rows in both', *only])}"

    def because(self) -> Iterator[str]:
        """Yield a line for each cause, and for what has none."""
        for cause in self.explanation.causes:
            yield f"{cause.topic}: {lines_of_cause(cause)}"
        if self.explanation.untold:
            yield f"cannot be named fully: {self.explanation.untold}"
            return
        if GENERATED in self.explanation.unexplained:
            yield BROKEN
        elif COPIED in self.explanation.unexplained:
            yield COPIES
        if ROWS in self.explanation.unexplained:
            yield LOST
        if self.tally.blamed:
            rows = counted(self.tally.blamed, "row")
            yield f"{rows} killed or hung a replica on one side only, which says something of the machine and not of the row"

    def to_json(self) -> bytes:
        """Return all of it as JSON; the same outputs give the same bytes."""
        matched, tally = self.matched, self.tally
        divergence, drift = tally.divergence, tally.drift
        body = {
            "verdict": self.verdict(), "equal": self.equal,
            "a": _side(self.a), "b": _side(self.b),
            "rows": {
                "equal": tally.equal, "different": tally.different, "only_in_a": matched.only_a.rows,
                "only_in_b": matched.only_b.rows, "other_samples_in_a": matched.only_a.samples,
                "other_samples_in_b": matched.only_b.samples, "first_only_in_a": matched.only_a.first,
                "first_only_in_b": matched.only_b.first, "same_order": matched.same_order,
                "different_in": {kind: tally.kinds[kind] for kind in KINDS},
            },
            "columns": {"compared": self.compared, **self.columns(), "different_rows": dict(tally.columns)},
            "errors": [{"a": a, "b": b, "rows": rows} for (a, b), rows in sorted(tally.errors.items(), key=str)],
            "divergence": {
                "rows": divergence.places.total(), "median_token": divergence.median, "one_ends": divergence.ended,
                "mean_probability_a": divergence.probability("a"), "mean_probability_b": divergence.probability("b"),
            },
            "drift": {
                "tokens": drift.tokens, "mean": drift.mean, "max": drift.most if drift.tokens else None, "max_at": drift.where,
            },
            "because": list(self.because()),
            "causes": [_cause(cause) for cause in self.explanation.causes],
            "also_different": [_cause(cause) for cause in self.explanation.others],
            "examples": [self._example(example) for example in tally.examples],
        }  # fmt: skip
        text = json.dumps(_finite(body), indent=2, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode("utf-8", "backslashreplace")

    def _example(self, example: Example) -> dict[str, Any]:
        return {
            "row_id": example.a["row_id"], "sample_index": example.a["sample_index"], "different_in": example.kind,
            "columns": example.columns, "token": example.place,
            "a": asdict(self.tokens.first(example, "a")), "b": asdict(self.tokens.first(example, "b")),
        }  # fmt: skip


def difference(a: Side, b: Side, schema: pa.Schema, matched: Matched, tally: Tally, tokens: Tokens) -> Difference:
    """Explain what was found, and put it together."""
    compared = tuple(name for name in schema.names if name not in ("row_id", "sample_index"))
    effects = {
        ROWS: bool(matched.only_a.rows or matched.only_b.rows),
        GENERATED: any(tally.kinds[kind] for kind in ("errors", "tokens", "statistics")),
        COPIED: any(tally.columns[name] for name in (*PROMPTS, *(kept_columns(a) & kept_columns(b)))),
    }
    varies = any(s.plan is not None and s.plan.fingerprint.get("source", {}).get("sampling_column") for s in (a, b))
    same_prompts = "prompt" in compared and not any(tally.columns[name] for name in PROMPTS) and not varies
    chance = bool(tally.blamed) and tally.blamed == sum(
        tally.kinds[kind] for kind in ("errors", "tokens", "statistics")
    )
    seen = Seen(frozenset(effect for effect, found in effects.items() if found), same_prompts, chance)
    return Difference(a, b, matched, tally, explain(a, b, seen), compared, tokens)


def kept_columns(side: Side) -> frozenset[str]:
    """Return the columns of an output that are copies of its input's."""
    source = {} if side.plan is None else side.plan.fingerprint.get("source", {})
    return frozenset(source.get("keep_columns", ()))


def lines_of_cause(cause: Cause) -> str:
    """Return what differs, on one line."""
    return "; ".join(cause.lines) + (f"; and {cause.more:,} more" if cause.more else "")


def _side(side: Side) -> dict[str, Any]:
    return {
        "path": side.output.path, "plan_id": None if side.plan is None else side.plan.plan_id,
        "finished": side.output.finished, "parts": len(side.parts), "missing_parts": side.missing_parts, "rows": side.rows,
        "columns": [] if side.schema is None else [f"{f.name}: {plain_type(f.type)}" for f in side.schema],
        "environments": list(side.environments),
    }  # fmt: skip


def _cause(cause: Cause) -> Mapping[str, Any]:
    return {"topic": cause.topic, "differences": cause.lines, "more": cause.more}


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not have by null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
