"""Every causal language model of transformers is served right, or refused in one line; families.md says which."""

from __future__ import annotations

import re

import pytest

from tests.engine.survey import PAGE, Verdict, kinds, survey, table


@pytest.mark.slow
def test_every_causal_language_model_is_right_or_refused() -> None:
    found = list(survey(kinds()))
    print(table(found))
    bad = [v for v in found if v.outcome in ("wrong", "crash")]
    assert not bad, table(bad)
    assert sum(v.outcome == "right" for v in found) >= 50
    assert all("\n" not in v.told for v in found)
    right = {v.kind for v in found if v.outcome == "right"}
    assert right == set(re.findall(r"^\| `([^`]+)` \| right ", PAGE.read_text(), re.MULTILINE)), (
        "make survey writes the page"
    )


@pytest.mark.parametrize(
    ("kind", "outcome"), [("gpt2", "right"), ("qwen3", "right"), ("roberta", "refused"), ("mamba", "refused")]
)
def test_the_survey_itself(kind: str, outcome: str) -> None:
    (verdict,) = survey([kind])
    assert isinstance(verdict, Verdict) and verdict.outcome == outcome, verdict
    assert f"| `{kind}` | {outcome} |" in table([verdict])


def test_what_is_no_language_model_by_itself_is_said_to_be_none() -> None:
    (verdict,) = survey(["emu3"])
    assert verdict.outcome == "refused" and "transformers has no causal language model emu3" in verdict.told
    assert len(verdict.told) < 250, "not the names of all the others"
