from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.prompts.template.growth import MAX_CHARACTERS
from pipeline.prompts.template.template import compile_template

HOSTILE = [
    "{{ 'a' * 10 ** 10 }}",
    "{{ 10 ** 10 * [1] }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (10 ** 9, 1) }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ ('%(a)s' * 10000) % {'a': 'x' * 10000} }}",
    "{{ 'a'|center(10 ** 10) }}",
    "{{ 'a'.ljust(10 ** 10) }}",
    "{{ 'a'.zfill(10 ** 10) }}",
    "{{ 'a\\tb'.expandtabs(10 ** 10) }}",
    "{{ ''.join(['a' * 10 ** 6] * 10 ** 5) }}",
    "{{ ['a' * 10 ** 6] * 10 ** 5 }}",
    "{{ (['a' * 10 ** 6] * 10 ** 5)|join }}",
    "{{ ([1] * 1000)|join('a' * 10 ** 6) }}",
    "{{ (['a' * 10 ** 6] * 10 ** 5)|string }}",
    "{{ (['a' * 10 ** 6] * 10 ** 5)|tojson }}",
    "{{ (['a' * 10 ** 6] * 10 ** 5)|upper }}",
    "{{ ('a' * 10 ** 6).replace('', 'b' * 10 ** 6) }}",
    "{{ ('a' * 10 ** 6)|replace('a', 'b' * 10 ** 6) }}",
    "{{ ('a\\n' * 10 ** 6)|indent(10 ** 6) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{w}}'.format(1, w=10 ** 9) }}",
    "{{ ('{0}' * 10000).format('x' * 10000) }}",
    "{{ 10 ** (10 ** 10) }}",
    "{{ 2.5|round(10 ** 9, 'floor') }}",
    "{{ [1]|batch(10 ** 9, 0)|list }}",
    "{{ [1]|slice(10 ** 9)|list }}",
    "{{ {'a': 1}|tojson(indent=10 ** 9) }}",
    "{{ (1).to_bytes(10 ** 10) }}",
    "{{ range(10 ** 9)|list }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% set l = range(99999)|list %}{% for a in l %}{% for b in l %}{% endfor %}{% endfor %}",
    "{% set l = range(99999)|list %}{% for a in l %}{% if -1 in l %}{% endif %}{% endfor %}",
    "{% set l = range(99999)|list %}{% for a in l %}{% set b = l|sort|sum %}{% endfor %}",
    "{% for a in range(9) recursive %}{{ loop(range(9)) if loop.depth < 99 }}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% set n = namespace(s='ab') %}{% for i in range(90) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "{% set n = namespace(s='ab') %}{% for i in range(90) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "{% set n = namespace(s='ab') %}{% for i in range(90) %}{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}{% endfor %}",
    "{% set n = namespace(s=[1]) %}{% for i in range(90) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "{% set n = namespace(s=[1]) %}{% for i in range(90) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
    "{% set n = namespace(s=[1], t=[1]) %}{% for i in range(90) %}{% set n.s = [n.s, n.s] %}"
    "{% set n.t = [n.t, n.t] %}{% endfor %}{{ n.s == n.t }}",
    "{% set n = namespace(s=3) %}{% for i in range(90) %}{% set n.s = n.s * n.s %}{% endfor %}",
    "{% set t %}{% for i in range(99999) %}" + "x" * 1000 + "{% endfor %}{% endset %}",
    "{% for i in range(99999) %}" + "x" * 1000 + "{% endfor %}",
    "{{ ([[1]] * 99999)|sum(start=[]) }}",
]

HOSTILE_VALUES: list[tuple[str, dict[str, Any]]] = [
    ("{{ x * n }}", {"x": "ab", "n": 10**10}),
    ("{{ n ** n }}", {"n": 10**6}),
    ("{{ f % {'(a)': 1} }}", {"f": "%((a))1000000000d"}),
    ("{{ f % 1 }}", {"f": "%l%%1000000000d"}),
    ("{{ f.format({'{': 1}) }}", {"f": "{0[{]:1000000000}"}),
    ("{{ f.format(1) }}", {"f": "{:999}" * 100_000}),
    ("{{ d.strftime(f) }}", {"d": date(2026, 1, 2), "f": "%1000000000d"}),
    ("{{ d.strftime(format=f) }}", {"d": date(2026, 1, 2), "f": "%1000000000d"}),
    ("{{ d.strftime(f) }}", {"d": date(2026, 1, 2), "f": "%999d" * 2_000_000}),
    ("{{ x|center(width=n) }}", {"x": "a", "n": 10**10}),
    ("{{ x|indent(x) }}", {"x": "\n" * 5_000_000}),
    ("{{ x|replace(y, x) }}", {"x": "a" * 6_000_000, "y": ""}),
    ("{{ x.join(l|map('upper')) }}", {"x": "a" * 100_000, "l": ["a"] * 10_000}),
    ("{{ x ~ x ~ x }}", {"x": "a" * 6_000_000}),
    ("{{ l|batch(linecount=n, fill_with=1)|list }}", {"l": [1], "n": 10**9}),
    ("{{ l|sum('x', []) }}", {"l": [{"x": [1]}] * 99_999}),
    ("{{ (b % 1)|length }}", {"b": b"%1000000000d"}),
    ("{{ b.center(n)|length }}", {"b": b"a", "n": 10**10}),
    ("{{ '{:f}'.format(d) }}", {"d": Decimal("1E+900000000")}),
    ("{{ l|map(attribute=a)|list }}", {"l": ["x"], "a": "__class__.__mro__"}),
    ("{{ l|sort(attribute=a) }}", {"l": ["x", "y"], "a": "__class__"}),
    ("{{ f.format(l) }}", {"l": [], "f": "{0.__class__.__mro__}"}),
    ("{{ l[a]() }}", {"l": [1], "a": "clear"}),
    ("{{ l[a] }}", {"l": [1], "a": "clear"}),
]


@contextmanager
def limited_memory() -> Iterator[None]:
    """Let a render that asks for far too much fail with a MemoryError, not with the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 30 * MAX_CHARACTERS, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("text", HOSTILE)
def test_fault_38_a_template_cannot_use_up_the_machine(text: str) -> None:
    template = compile_template(text)
    with limited_memory(), pytest.raises(ValueError, match=r"^(Overflow|Security|Type|Value)Error: "):
        template.render({})


@pytest.mark.parametrize(("text", "row"), HOSTILE_VALUES)
def test_fault_38_a_value_cannot_use_up_the_machine(text: str, row: dict[str, Any]) -> None:
    template = compile_template(text)
    with limited_memory(), pytest.raises(ValueError, match=r"^(Overflow|Security|Type|Value)Error: "):
        template.render(row)


def test_a_prompt_is_cut_off_when_it_is_too_long() -> None:
    template = compile_template("{{ x }}{% for i in range(n) %}....{{ y }}{% endfor %}")
    assert len(template.render({"x": "a" * (MAX_CHARACTERS - 10), "y": "b", "n": 2})) == MAX_CHARACTERS
    with pytest.raises(ValueError, match="more than 10,000,000 characters"):
        template.render({"x": "a" * (MAX_CHARACTERS - 9), "y": "b", "n": 2})
    with limited_memory(), pytest.raises(ValueError, match="more than 10,000,000 characters"):
        template.render({"x": "", "y": "b" * 1_000_000, "n": 99_999})


def test_a_year_in_a_format_is_no_width() -> None:
    text = "{{ 'In 2026: %s, 100%% 2026 %5d' % (x, 1) }} {{ 'In 2026: {} {:>5}'.format(x, 1) }}"
    assert compile_template(text).render({"x": "y"}) == "In 2026: y, 100% 2026     1 In 2026: y     1"


def test_large_but_honest_work_is_done() -> None:
    document = "word " * 1_000_000
    looked_for = "{% for w in l %}{{ '' if w in d else w }}{% endfor %}{{ 'no'|format if d.find('x') > 0 }}"
    assert compile_template(looked_for).render({"d": document[:1_000_000], "l": ["word", "a"] * 400}) == "a" * 400
    form, values = "%s words, " * 3000, tuple("abc" * 1000)
    assert compile_template("{{ f % l }}").render({"f": form, "l": values}) == form % values
    assert len(compile_template("{{ d|trim|upper|replace('WORD', 'w') }}").render({"d": document})) == 1_999_999
    text = "{% for x in l %}{{ loop.index }}. {{ x ~ '!' }}\n{% endfor %}"
    assert compile_template(text).render({"l": ["x"] * 50_000}).count("\n") == 50_000
    building = (
        "{% set n = namespace(l=[]) %}{% for i in range(5000) %}{% set n.l = n.l + [i] %}{% endfor %}{{ n.l|sum }}"
    )
    assert compile_template(building).render({}) == "12497500"


def test_the_same_row_always_fails_or_always_succeeds() -> None:
    template = compile_template("{% for i in range(n) %}{{ i }}{% endfor %}")
    sizes = [random.Random(0).randrange(100_000) for _ in range(5)]
    assert [template.render({"n": n}) for n in sizes] == [template.render({"n": n}) for n in sizes]


def test_no_text_depends_on_the_machine_s_time_zone() -> None:
    template = compile_template("{{ t.timestamp()|int }}")
    assert template.render({"t": datetime(2026, 1, 2, tzinfo=UTC)}) == "1767312000"
    with pytest.raises(ValueError, match="without a time zone"):
        template.render({"t": datetime(2026, 1, 2)})
