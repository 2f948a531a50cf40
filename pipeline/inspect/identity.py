"""Whether two environments promise the same bits, and what speaks against it. Pure; it asks no machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.output.environment import identity
from pipeline.planning.fingerprint import flatten

UNKNOWN = "not recorded"


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Say why the rows of one plan may have other bits in one environment than in the other, a line a reason.

    Args:
        there: Facts about a machine and an engine, as a part's footer or a manifest has them; those that change no bit
            may be among them.
        here: The same of the other.

    Returns:
        `name: value there → value here` for each fact on which bits rest and that differs, and a line where an
        environment promises nothing, not even to itself. None: the same bits are promised.
    """
    before, after = dict(flatten(identity(there))), dict(flatten(identity(here)))
    if not before or not after:
        return [f"environment: {UNKNOWN}"]
    if before.get("processor_class") and after.get("processor_class"):
        before.pop("processor", None), after.pop("processor", None)  # a name, with a clock rate in it or nothing of use
    names = [n for n in dict.fromkeys([*before, *after]) if before.get(n, UNKNOWN) != after.get(n, UNKNOWN)]
    lines = [_line(name, before.get(name, UNKNOWN), after.get(name, UNKNOWN)) for name in names]
    if True not in (there.get("batch_invariant"), here.get("batch_invariant")):
        lines.append("batch_invariant: promised neither there nor here")
    return lines


def mixtures(environments: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say which parts of an output were made where other bits may come out than where its first part was made.

    Args:
        environments: Part → facts; parts that share one may share the object.
    """
    groups: dict[str, list[str]] = {}
    for name, facts in environments.items():
        groups.setdefault(json.dumps(facts, sort_keys=True, default=str), []).append(name)
    lines = []
    for others in list(groups.values())[1:]:
        first = next(iter(environments))
        reasons = differences(environments[first], environments[others[0]])
        parts = f"{len(others):,} parts, the first of them {others[0]}, were" if len(others) > 1 else f"{others[0]} was"
        if reasons:
            lines.append(f"{parts} not made where {first} was: {'; '.join(reasons)}")
    return lines


def _line(name: str, old: Any, new: Any) -> str:
    if name == "instruction_sets" and UNKNOWN not in (old, new):
        one, other = set(str(old).split()), set(str(new).split())
        old, new = (" ".join(sorted(own)) or "no more" for own in (one - other, other - one))
    return f"{name}: {_shown(old)} → {_shown(new)}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
