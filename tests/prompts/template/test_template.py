from __future__ import annotations

from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigurationError
from pipeline.prompts.template.template import compile_template


def render(text: str, **row: Any) -> str:
    return compile_template(text).render(row)


HARMLESS = [
    "plain text\n",
    "{{ x }} and {{ d.a }} {{ d['b'][0] }}",
    "{% for i in l if i != 2 %}{{ loop.index }}/{{ loop.length }}:{{ i ~ '!' }}{{ ',' if not loop.last }}{% endfor %}",
    "{% for k, v in d|dictsort %}{{ k }}={{ v }};{% else %}none{% endfor %}",
    "{% macro m(a, b=2) %}<{{ a }}|{{ b }}>{% endmacro %}{{ m(x) }}{{ m(1, b=x) }}",
    "{% set ns = namespace(l=[]) %}{% for i in l %}{% set ns.l = ns.l + [i * 2] %}{% endfor %}{{ ns.l }}",
    "{% set t %}{{ x }}\n  y{% endset %}{{ t|indent(2, first=true) }}|{{ t|upper|trim }}|{{ t|replace('y', 'z') }}",
    "{{ '%05.1f|%-6s|%%' % (3.14159, x) }} {{ '%s-%s'|format(1, x) }} {{ '{:>5}{a}'.format(1, a=x) }}",
    "{{ l|join(', ') }} {{ [d]|join(attribute='a') }} {{ l|map('string')|join('+') }}{{ l|sum }} {{ l|batch(2)|list }}",
    "{{ d|tojson }} {{ x|center(11) }} {{ x.ljust(5) }}| {{ x.split('e')|list }} {{ 2 ** 10 % 7 }} {{ 7 // 2 }}",
    "{{ x if x else 'no' }}{{ 'a' if none }}{{ n or '' }}{{ n is none }}{{ x in 'hello' }}{{ 1 < 2 <= 2 }}",
    "{% for a in tree recursive %}{{ a.v }}{{ loop(a.c) if a.c }}{% endfor %}",
    "{% filter upper %}{{ x }}{% endfilter %}{% call m() %}{% endcall %}{% macro m() %}{% endmacro %}",
    "{{ range(3)|list }}{{ dict(a=1) }}{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ 'ab'|first }}",
]
ROW: dict[str, Any] = {
    "x": "hello", "l": [1, 2, 3], "d": {"a": 1, "b": ["q"]}, "n": None,
    "tree": [{"v": 1, "c": [{"v": 2, "c": []}]}, {"v": 3, "c": []}],
}  # fmt: skip


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_templates_render_as_in_plain_jinja(text: str) -> None:
    if "call m()" in text:
        text = (
            "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}{{ x }}{% endcall %}" + text.split("{% call")[0]
        )
    plain = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    assert render(text, **ROW) == plain.from_string(text).render(ROW)


@given(st.text(), st.text())
def test_values_are_put_in_as_they_are(prefix: str, value: str) -> None:
    assert compile_template("<{{ a }}|{{ b }}>").render({"a": prefix, "b": value}) == f"<{prefix}|{value}>"


def test_fault_38_what_a_row_holds_is_never_a_template_and_never_escaped() -> None:
    assert render("{{ x }}", x="<script>{{ 7 * 7 }}</script>") == "<script>{{ 7 * 7 }}</script>"


def test_columns_are_the_undeclared_variables() -> None:
    text = "{{ b.c }}{% set z = a %}{{ z }}{% for i in range(d) %}{{ i }}{% endfor %}"
    assert compile_template(text).columns == ["a", "b", "d"]
    assert compile_template("none").columns == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ x", "line 1: unexpected end of template"),
        ("a\n{% for %}", "line 2: "),
        ("{{ x|nope }}", "No filter named 'nope'"),
        ("{% include 'x' %}", "include is not allowed"),
        ("{% import 'x' as y %}", "import is not allowed"),
        ("{% extends 'x' %}", "extends is not allowed"),
        ("{{ ''.__class__.__mro__ }}", "__mro__ is not allowed"),
        ("{{ x.__globals__ }}", "__globals__ is not allowed"),
        ("{{ x['__class__'] }}", "__class__ is not allowed"),
        ("{{ x|attr('__class__') }}", "No filter named 'attr'"),
        ("{{ [1, 2]|random }}", "No filter named 'random'"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "recursion"),
        ("{{ " + "9" * 5000 + " }}", "digits"),
    ],
)
def test_fault_38_a_template_that_cannot_work_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        compile_template(text)
    assert str(refused.value).startswith("source.template: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ nope }}", "UndefinedError: 'nope' is undefined"),
        ("{{ x.nope }}", "UndefinedError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ x + 1 }}", "TypeError"),
        ("{{ x|int(default=y) }}", "UndefinedError"),
        ("{{ none }}", "prints a null"),
        ("{{ l|map('string') }}", "a generator is not text"),
        ("{{ '\\ud800' }}", "UnicodeEncodeError"),
        ("{{ x|format(1) }}", "TypeError"),
        ("{{ 10.0 ** 400 }}", "OverflowError"),
        ("{{ [1].append(2) }}", "SecurityError"),
        ("{{ '{0.__class__}'.format(x) }}", "SecurityError"),
        ("{{ x['__cla' ~ 'ss__'] }}", "SecurityError"),
        ("{{ l|map(attribute='__class__')|list }}", "SecurityError"),
        ("{{ lipsum() }}", "'lipsum' is undefined"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    ],
)
def test_fault_38_what_fails_on_a_row_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^\w+: ") as failed:
        render(text, **ROW)
    assert message in str(failed.value)
    assert "\n" not in str(failed.value)


def test_a_row_that_failed_leaves_nothing_behind() -> None:
    template = compile_template("{% for i in range(n) %}{% for j in range(n) %}{% endfor %}{% endfor %}{{ n }}")
    with pytest.raises(ValueError, match="steps of work"):
        template.render({"n": 50_000})
    for _ in range(3):
        assert template.render({"n": 700}) == "700"


@given(st.lists(st.sampled_from(["a", " ", "\n", "\r", "\r\n", "\x1c", "\u2028", "\t"]), max_size=12).map("".join))
def test_a_prompt_has_the_characters_of_its_template(text: str) -> None:
    assert render(text) == text
    assert render(f"{text}{{{{ x }}}}{text}", x="\r\x1c\n") == f"{text}\r\x1c\n{text}"


def test_line_ends_within_tags_and_texts_of_a_template() -> None:
    assert render("{{\r\n x\r\n}}|{{ 'a\r\nb' }}|{% if x %}\r\n{% endif %}{{ x -}} \r\n y", x="1") == "1|a\r\nb|\r\n1y"


@pytest.mark.parametrize("name", ["range", "dict", "cycler", "joiner", "namespace"])
def test_a_column_may_have_the_name_of_a_function_of_jinja(name: str) -> None:
    template = compile_template(f"{{{{ {name} }}}} {{{{ {name}.x }}}} {{{{ {name} | length }}}}")
    assert template.columns == [name]
    assert template.render({name: {"x": "y"}}) == "{'x': 'y'} y 1"
    assert render("{{ range(2)|list }}{{ dict(a=1) }}") == "[0, 1]{'a': 1}"


def test_a_column_and_a_function_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"line 2: 'range' is used as a column and called"):
        compile_template("{{ range }}\n{{ range(3) }}")


@pytest.mark.parametrize("name", ["items", "keys", "values", "get", "copy", "pop", "update", "clear", "setdefault"])
def test_a_field_may_have_the_name_of_a_method_of_every_dict(name: str) -> None:
    assert render(f"{{{{ m.{name} }}}}{{% set x = m.{name} %}}{{{{ x }}}}", m={name: "v"}) == "vv"


def test_methods_that_are_called_are_methods() -> None:
    assert render("{% for k, v in m.items() %}{{ k }}{{ v }}{% endfor %}", m={"items": 1, "a": 2}) == "items1a2"
    assert render("{{ s.strip().upper() }}{{ m.get('a') }}{{ m.a.lower() }}", s=" x ", m={"a": "B"}) == "XBb"


def test_names_that_python_takes_for_one_are_refused() -> None:
    assert render("{{ \ufb01 }}", **{"\ufb01": "ligature"}) == "ligature"
    with pytest.raises(ConfigurationError, match="differ only in how a character is written") as refused:
        compile_template("{{ \ufb01 }}{{ fi }}")
    assert str(refused.value).isascii()


@pytest.mark.parametrize(
    "text",
    [
        "{{ b }}", "{{ [b] }}", "{{ {'a': b} }}", "{{ b ~ 'x' }}", "{{ '%s' % b }}", "{{ '{}'.format(b) }}", "{{ b|string }}",
        "{{ b|upper }}", "{{ [b]|join }}", "{{ [b]|map('string')|list }}", "{{ {'a': b}|tojson }}", "{{ b|trim }}", "{{ b|e }}",
        "{{ b|replace('a', 'b') }}", "{{ '%r'|format(b) }}", "{{ b|indent }}", "{{ b|center }}", "{{ b|title }}",
    ],
)  # fmt: skip
def test_bytes_are_never_printed_as_python_writes_them(text: str) -> None:
    with pytest.raises(ValueError, match=r"bytes are not text"):
        render(text, b=b"caf\xe9")


def test_bytes_are_text_when_they_are_decoded() -> None:
    assert render("{{ b.decode('latin-1') }} {{ a.decode() }}", b=b"caf\xe9", a="é".encode()) == "café é"
