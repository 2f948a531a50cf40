from __future__ import annotations

import pytest

from pipeline.wording import (
    as_given,
    brief,
    did_you_mean,
    first_line,
    lines_of,
    listed,
    masked,
    named,
    one_line,
    plain,
    shortened,
    without_secrets,
)


def test_messages_are_one_bounded_line() -> None:
    hostile = "a\nb\r\x1b[31m\ud800" + "x" * 10**6
    assert len(one_line(hostile)) <= 200
    assert len(brief(hostile)) <= 80
    for text in (one_line(hostile), brief(hostile)):
        assert text.isprintable()
        text.encode()


def test_many_names_become_a_number() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(i) for i in range(100)]).endswith("19 … and 80 more")


def test_did_you_mean_ignores_case() -> None:
    assert did_you_mean("promt", ["id", "Prompt"]) == "; did you mean 'Prompt'?"
    assert did_you_mean("zzz", ["id", "prompt"]) == ""


def test_passwords_in_uris_are_not_shown() -> None:
    assert without_secrets("s3://key:secret@bucket/x") == "s3://***@bucket/x"
    text = "see http://a.example, write\nto me@a.example" + "x" * 300
    assert masked(text) == text


def test_a_text_that_is_cut_tells_so() -> None:
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abcdefg", 6) == "abcde…"


def test_control_characters_are_escaped_and_nothing_else() -> None:
    assert plain("a\nb\x1b[31m\u202e é日") == r"a\nb\x1b[31m\u202e é日"
    assert plain("\n" * 100, 10) == r"\n\n\n\n\…"


@pytest.mark.parametrize(
    ("error", "first", "name"),
    [
        (ValueError("\n\n  what is wrong  \nand where\n"), "what is wrong", "ValueError: what is wrong"),
        (KeyError(), "KeyError", "KeyError"),
        (OSError(" \n"), "OSError", "OSError"),
        (ValueError("x" * 1000), "x" * 299 + "…", "ValueError: " + "x" * 299 + "…"),
    ],
)
def test_an_exception_says_one_line(error: Exception, first: str, name: str) -> None:
    assert (first_line(error), named(error)) == (first, name)
    assert lines_of(error)[:1] == [] or lines_of(error)[0].startswith(first[:13])


@pytest.mark.parametrize(
    ("value", "shown"),
    [(True, "true"), (False, "false"), (None, "null"), (1, "1"), (0.0, "0.0"), ("True", "'True'"), ([None], "[None]")],
)
def test_a_value_is_shown_as_it_was_given(value: object, shown: str) -> None:
    assert as_given(value) == shown
