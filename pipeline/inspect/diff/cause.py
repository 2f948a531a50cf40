"""Names what made two outputs differ, from their plans, their environments and what was seen in their rows. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.engine.config import StatsConfig
from pipeline.inspect.diff.sides import Side, pairs
from pipeline.inspect.identity import changes as environment_changes
from pipeline.planning.fingerprint import ABSENT, changes, flatten, told
from pipeline.planning.plan import Plan
from pipeline.prompts.config import SourceConfig
from pipeline.sampling import SamplingParams
from pipeline.wording import plain

ROWS, GENERATED, COPIED = "rows", "generated", "copied"
"""What may be seen: rows that only one has, other completions or statistics, other prompts or kept columns."""
_ALL = frozenset({ROWS, GENERATED, COPIED})
_MADE = frozenset({GENERATED})


@dataclass(frozen=True, slots=True)
class Cause:
    """Something that differs between two outputs, other than their rows.

    Attributes:
        topic: Its name: seed, sampling, precision, …
        lines: What differs, a line each.
        effects: What of the rows it can change.
        more: Further lines that are not kept.
    """

    topic: str
    lines: tuple[str, ...]
    effects: frozenset[str]
    more: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen in the rows.

    Attributes:
        effects: Which of the effects.
        same_prompts: Whether both have prompts, and all of them are the same.
        left_to_chance: Whether all that differs in completions is rows that killed or hung a replica on one side.
    """

    effects: frozenset[str]
    same_prompts: bool = False
    left_to_chance: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why two outputs differ.

    Attributes:
        causes: What explains something that was seen, the likeliest first.
        others: What differs as well, and explains nothing that was seen.
        unexplained: Effects for which there is no cause.
        untold: Why some causes cannot be told; empty if all can.
    """

    causes: tuple[Cause, ...]
    others: tuple[Cause, ...]
    unexplained: frozenset[str]
    untold: str = ""


_MOST_LINES = 12
"""Lines of a topic that are kept."""
_PLAN: tuple[tuple[str, str, frozenset[str]], ...] = (
    ("recipe", r"recipe", _ALL),
    ("schema version", r"schema", _ALL),
    ("ids", r"source\.(id_column|id_template)", frozenset({ROWS})),
    ("limit", r"source\.limit", frozenset({ROWS})),
    ("number of samples", r"sampling\.n", frozenset({ROWS})),
    ("columns", r"stats\..*|output\..*|source\.keep_columns", frozenset({COPIED})),
    ("seed", r"sampling\.seed", _MADE),
    ("chat template", r"source\.chat_\w+|model\.content\.tokenizer/.*\.jinja", frozenset({GENERATED, COPIED})),
    ("prompts", r"source\..*", frozenset({GENERATED, COPIED})),
    ("sampling", r"sampling\..*", _MADE),
    ("model", r"model\.content\.model/.*", _MADE),
    ("tokenizer", r"model\.content\.tokenizer/.*", _MADE),
    ("adapter", r"model\.content\.adapter/.*", _MADE),
    ("precision", r"model\.(dtype|quantization|kv_cache_dtype|int8_scheme|tf32)", _MADE),
    ("model", r"model\..*", _MADE),
    ("kernels", r"engine\.(kernels|deterministic)", _MADE),
    ("engine", r"engine\..*", _MADE),
)
"""Topic, keys of a fingerprint, effects; the first that fits a key has it."""
_ENVIRONMENT = (
    ("promptmill version", r"promptmill"),
    ("torch version", r"torch"),
    ("transformers version", r"transformers"),
    ("device", r"device|gpu.*|cuda.*|driver.*|triton.*"),
    ("processor", r"processor.*|instruction_sets|machine"),
    ("precision", r"(kv_cache_)?dtype"),
    ("kernels", r"linear_kernels.*|attention|compiled|kernels|caps.*|cpu_capability"),
    ("threads", r"threads"),
    ("engine", r"engine"),
    ("no promise", r"batch_invariant"),
)
_FOLLOWS = frozenset({"precision", "kernels", "engine", "threads", "no promise"})
"""Topics of an environment in which another precision, model or engine of the plan shows again."""
_FOLLOWED = frozenset({"precision", "kernels", "engine", "model", "adapter"})
_COPIES = frozenset({"input", "prompts", "chat template", "ids"})
"""Topics that change completions through the prompt only."""


def explain(a: Side, b: Side, seen: Seen) -> Explanation:
    """Name what made the rows of two outputs differ."""
    untold = "; ".join(
        f"{side.name} has no plan that can be used: {side.without_plan}" for side in (a, b) if side.plan is None
    )
    found: dict[str, Cause] = {}
    if a.missing_parts or b.missing_parts:
        lines = tuple(f"{s.name} lacks {s.missing_parts:,} of {s.plan.shard_count:,} parts"
                      for s in (a, b) if s.missing_parts and s.plan is not None)  # fmt: skip
        found["not finished"] = Cause("not finished", lines, frozenset({ROWS}))
    if a.plan is not None and b.plan is not None:
        for topic, line, effects in _plan_changes(a.plan, b.plan):
            _add(found, topic, line, effects)
    follows = _FOLLOWS if found.keys() & _FOLLOWED else frozenset[str]()
    for topic, line in dict.fromkeys(_environment_changes(a, b)):
        if topic not in follows:
            _add(found, topic, line, _MADE)
    causes: list[Cause] = []
    others: list[Cause] = []
    for cause in found.values():
        (causes if _possible(cause, seen) & seen.effects else others).append(cause)
    explained = frozenset[str]().union(*(_possible(cause, seen) for cause in causes))
    chance = _MADE if seen.left_to_chance else frozenset[str]()
    return Explanation(tuple(causes), tuple(others), seen.effects - explained - chance, untold)


def _add(found: dict[str, Cause], topic: str, line: str, effects: frozenset[str]) -> None:
    known = found.get(topic, Cause(topic, (), effects))
    room = len(known.lines) < _MOST_LINES
    lines = (*known.lines, line) if room else known.lines
    found[topic] = replace(known, lines=lines, more=known.more + (not room), effects=known.effects | effects)


def _possible(cause: Cause, seen: Seen) -> frozenset[str]:
    """Return what a cause can have changed, given that prompts are the same."""
    return cause.effects - _MADE if seen.same_prompts and cause.topic in _COPIES else cause.effects


def _plan_changes(a: Plan, b: Plan) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Yield (topic, line, effects) for each difference of two plans that can matter."""
    yield from (("input", line, _ALL) for line in _input_changes(a, b))
    one, other = ({k: v for k, v in plan.fingerprint.items() if k != "input"} for plan in (a, b))
    unused = {"sampling.seed"} if _is_greedy(one) and _is_greedy(other) else set()
    defaults = _defaults()
    for key, old, new in changes(one, other):
        known = [value for value in (old, new) if value != ABSENT]
        if key in unused or (len(known) == 1 and key in defaults and defaults[key] == known[0]):
            continue  # an option that an earlier version did not have
        topic, effects = next((t, e) for t, pattern, e in (*_PLAN, ("plan", ".*", _ALL)) if re.fullmatch(pattern, key))
        yield topic, told(key, old, new), effects


def _input_changes(a: Plan, b: Plan) -> Iterator[str]:
    known = min(a.format, b.format)  # format 1 knows less of a file
    if a.fingerprint.get("source") != b.fingerprint.get("source"):
        known = 1  # the digest of the content is that of the columns in use, which may be others
    one, other = ({file.name: file.identity(known) for file in plan.files} for plan in (a, b))
    for name in dict.fromkeys([*one, *other]):
        if name not in one or name not in other:
            yield f"{plain(name, 80)} is an input of {'a' if name in one else 'b'} only"
        elif one[name] != other[name]:
            rows = [side[name]["rows"] for side in (one, other)]
            yield f"{plain(name, 80)} has other content" + (f", {rows[0]:,} → {rows[1]:,} rows" * (rows[0] != rows[1]))


def _is_greedy(options: Mapping[str, Any]) -> bool:
    """Whether no row uses the seed."""
    sampling, source = options.get("sampling", {}), options.get("source", {})
    return sampling.get("temperature") == 0 and source.get("sampling_column") is None


def _defaults() -> dict[str, Any]:
    """Return the values of options that plans of earlier versions lack."""
    made = {
        "recipe": "generate", "sampling": SamplingParams().plain(), "stats": asdict(StatsConfig()),
        "source": asdict(SourceConfig(path="-")), "output": {"include_prompt": True, "messages": False},
    }  # fmt: skip
    return dict(flatten(made))


def _environment_changes(a: Side, b: Side) -> Iterator[tuple[str, str]]:
    """Yield (topic, line) for each difference between environments of the two outputs that bits depend on."""
    for there, here in pairs(a, b):
        for name, line in environment_changes(there, here):
            topic = next((t for t, pattern in _ENVIRONMENT if re.fullmatch(pattern, name)), "environment")
            yield topic, line
