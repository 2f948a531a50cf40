"""Lays out a comparison for people: a line for each number, then some rows that differ."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.inspect.diff.result import Difference, lines_of_cause
from pipeline.inspect.diff.sides import Side
from pipeline.inspect.diff.tally import KINDS, Example
from pipeline.inspect.diff.texts import FirstToken
from pipeline.wording import counted, plain

SPELLED = {
    "errors": "errors",
    "tokens": "tokens",
    "statistics": "statistics only",
    "prompts": "prompts only",
    "kept": "kept columns only",
}


def lines(found: Difference) -> Iterator[str]:
    """Yield the lines to print."""
    yield from (f"{side.name}  {side_line(side)}" for side in (found.a, found.b))
    yield ""
    yield found.verdict()
    yield from (_fact(*fact) for fact in facts(found) if fact[1])
    causes = list(found.because())
    for number, cause in enumerate(causes):
        yield _fact("" if number else "because", plain(cause))
    for other in found.explanation.others:
        yield _fact("also other", plain(f"{other.topic}: {lines_of_cause(other)}", 300))
    if found.tally.examples:
        yield ""
    for example in found.tally.examples:
        yield plain(_example(found, example))


def _fact(name: str, text: str) -> str:
    return f"  {name:<14} {text}"


def side_line(side: Side) -> str:
    """Return what one output is."""
    about = [f"plan {side.plan.plan8}"] if side.plan is not None else []
    if side.missing_parts and side.plan is not None:
        about.append(f"not finished: {len(side.parts):,} of {counted(side.plan.shard_count, 'part')}")
    elif not side.output.finished:
        about.append("no manifest")
    return f"{plain(side.output.path)}  {', '.join([*about, counted(side.rows, 'row')])}"


def facts(found: Difference) -> Iterator[tuple[str, str]]:
    """Yield names and what was found; an empty text is not worth a line."""
    tally, matched = found.tally, found.matched
    if tally.equal + tally.different:
        yield "equal", f"{tally.equal:,}"
    yield "different", ", ".join(f"{tally.kinds[kind]:,} in {SPELLED[kind]}" for kind in KINDS if tally.kinds[kind])
    for name, lonely in (("only in a", matched.only_a), ("only in b", matched.only_b)):
        samples = f", {lonely.samples:,} of them further samples of rows that both have" if lonely.samples else ""
        first = ", ".join(f"{plain(str(i), 40)} #{sample}" for i, sample in lonely.first)
        yield (
            name,
            f"{lonely.rows:,}{samples}: {first}{', …' * (lonely.rows > len(lonely.first))}" if lonely.rows else "",
        )
    yield "order", "differs" if matched.same_order is False else ""
    columns = found.columns()
    for name, key in (("columns in a", "only_in_a"), ("columns in b", "only_in_b"), ("not compared", "of_other_types")):
        yield name, ", ".join(plain(column, 60) for column in columns[key])
    changed = {name: rows for name, rows in tally.columns.items() if rows}
    yield "by column", ", ".join(f"{plain(name, 60)} {rows:,}" for name, rows in changed.items())
    errors = sorted(tally.errors.items(), key=lambda item: -item[1])
    yield "errors", ", ".join(f"{rows:,} {_codes(a, b)}" for (a, b), rows in errors)
    yield "first token", _divergence(found)
    yield "drift", _drift(found)


def _codes(a: str | None, b: str | None) -> str:
    if a == b:
        return f"{a} in both"
    return " and ".join(f"{plain(code, 40)} in {side}" for code, side in ((a, "a"), (b, "b")) if code is not None) + (
        " only" if None in (a, b) else ""
    )


def _divergence(found: Difference) -> str:
    divergence = found.tally.divergence
    if not divergence.places:
        return ""
    least, most = min(divergence.places), max(divergence.places)
    places = f"rows diverge at token {divergence.median:,} in the median (from {least:,} to {most:,})"
    means = [f"{mean:.3g} in {side}" for side in "ab" if (mean := divergence.probability(side)) is not None]
    ended = f"; in {counted(divergence.ended, 'row')} one side ends there" if divergence.ended else ""
    return places + (f"; its mean probability is {', '.join(means)}" if means else "") + ended


def _drift(found: Difference) -> str:
    drift = found.tally.drift
    if not drift.tokens or drift.mean is None:
        return ""
    if not drift.most:
        return f"none in the log-probabilities of {counted(drift.tokens, 'common token')}"
    where = ""
    if drift.where is not None:
        row_id, sample, token = drift.where
        where = f" ({plain(str(row_id), 40)} #{sample}, token {token})"
    tokens = counted(drift.tokens, "common token")
    return f"log-probabilities of {tokens} differ by {drift.mean:.2g} nats on average, {drift.most:.2g} at most{where}"


def _example(found: Difference, example: Example) -> str:
    head = f"{plain(str(example.a['row_id']), 60)} #{example.a['sample_index']}"
    a, b = (found.tokens.first(example, side) for side in "ab")
    if example.kind == "errors" or example.place is None:
        errors = [f"{side}: {token.error}" for side, token in (("a", a), ("b", b)) if token.error]
        return f"{head}  {', '.join(errors)}" if errors else f"{head}  {', '.join(example.columns)}"
    return f"{head}  token {example.place}: {token_phrase(a, 'a')} in a, {token_phrase(b, 'b')} in b"


def token_phrase(token: FirstToken, side: str) -> str:
    """Return a token of a side with what is known of its probabilities."""
    if token.id is None:
        return "the end"
    name = f"id {token.id}" if token.text is None else f'"{plain(token.text, 30)}"'
    known = [f"p {token.probability:.3g}"] if token.probability is not None else []
    known += [f"{token.there:.3g} in {'b' if side == 'a' else 'a'}"] if token.there is not None else []
    return name + (f" ({', '.join(known)})" if known else "")
