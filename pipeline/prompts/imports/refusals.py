"""Says what to do about values of a column that have no type in common."""

from __future__ import annotations

import shlex

from pipeline.errors import InputRefused
from pipeline.prompts.imports.kinds import Misfit
from pipeline.wording import brief, one_line


def misfit_refused(place: str, misfit: Misfit) -> InputRefused:
    """Return the error for a value whose type does not fit its column.

    Args:
        place: Where it was found, such as `x.jsonl: line 7`.
        misfit: The value and its types.
    """
    shown = one_line(".".join(misfit.path).replace(".[]", "[]"), 80)
    column = misfit.path[0] if misfit.path else ""
    what = f"is {misfit.here}" + (f", and {misfit.before} before it" if misfit.before else "")
    return InputRefused(
        f"{place}: {brief(shown)} {what}; write all with one type, or keep the column as JSON text with {json_columns(column)}"
    )


def json_columns(column: str) -> str:
    """Return the option, for a shell, that keeps a column as JSON text."""
    plain = column.replace("_", "").replace("-", "").isalnum() and column.isascii()
    escaped = column.replace("\\", "\\\\").replace('"', '\\"')
    return shlex.quote(f"json_columns=[{column}]" if plain else f'json_columns=["{escaped}"]')
