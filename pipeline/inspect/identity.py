"""Decides whether two environments promise the same bits, and lists the reasons if not. Pure; it asks no machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.output.record.environment import identity
from pipeline.planning.fingerprint import flatten

UNKNOWN = "not recorded"


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return the reasons why one plan's rows may have different bits in two environments, one line per reason.

    Args:
        there: Facts about a machine and an engine, from a part's footer or a manifest; may include facts that change no
            bit.
        here: The same for the other environment.

    Returns:
        `name: value there → value here` for each differing fact that bits depend on, and a line if an environment promises
        nothing, not even to itself. Empty: the same bits are promised.
    """
    return [line for _, line in changes(there, here)]


def changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what `differences` does, each line with the name of its fact before it."""
    before, after = dict(flatten(identity(there))), dict(flatten(identity(here)))
    if not before or not after:
        return [("environment", f"environment: {UNKNOWN}")]
    if before.get("processor_class") and after.get("processor_class"):
        (
            before.pop("processor", None),
            after.pop("processor", None),
        )  # a name that may contain a clock rate, or nothing useful
    names = [n for n in dict.fromkeys([*before, *after]) if before.get(n, UNKNOWN) != after.get(n, UNKNOWN)]
    lines = [(name, _line(name, before.get(name, UNKNOWN), after.get(name, UNKNOWN))) for name in names]
    if True not in (there.get("batch_invariant"), here.get("batch_invariant")):
        lines.append(("batch_invariant", "batch_invariant: promised neither there nor here"))
    return lines


def mixtures(environments: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return which parts of an output were made in environments whose bits may differ from those of the first part's.

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
