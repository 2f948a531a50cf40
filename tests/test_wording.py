from __future__ import annotations

from pipeline.wording import brief, did_you_mean, listed, one_line, without_secrets


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
