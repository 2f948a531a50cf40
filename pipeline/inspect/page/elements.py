"""The parts of a page: tables, figures with their numbers, tiles, notes. All text arguments are escaped, bodies are HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.inspect.page.text import attribute, isolated, shown


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def cell(value: object) -> str:
    """Return a value as HTML; a text is escaped unless it is `Markup`."""
    return value if isinstance(value, Markup) else isolated(str(value))


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "", numbers: bool = True, label: str = ""
) -> Markup:
    """Return a table, whose first column names its rows.

    Args:
        head: The columns' names.
        rows: Values, `Markup` or anything that has a `str`.
        caption: What the table shows; it may be empty.
        numbers: Whether all columns but the first are set as numbers, to the right.
        label: Its name, where there is no caption.
    """
    title = f"<caption>{cell(caption)}</caption>" if caption else ""
    heads = "".join(f'<th scope="col">{cell(name)}</th>' for name in head)
    lines = "".join(
        f'<tr><th scope="row">{cell(first)}</th>{"".join(f"<td>{cell(value)}</td>" for value in rest)}</tr>'
        for first, *rest in rows
    )
    kind = ' class="numbers"' if numbers else ""
    return Markup(
        f'<div class="scroll" tabindex="0" role="group" aria-label="{attribute(caption or label or head[0])}">'
        f"<table{kind}>{title}<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, object]]) -> Markup:
    """Return names and values as a list of definitions."""
    items = "".join(f"<div><dt>{cell(name)}</dt><dd>{cell(value)}</dd></div>" for name, value in pairs)
    return Markup(f'<dl class="facts">{items}</dl>')


def tiles(items: Iterable[tuple[str, object, object]]) -> Markup:
    """Return large figures: name, value, and what is to be said about it."""
    made = "".join(
        f'<div class="tile"><dt>{cell(name)}</dt><dd>{cell(value)}<small>{cell(note)}</small></dd></div>'
        for name, value, note in items
    )
    return Markup(f'<dl class="tiles">{made}</dl>')


def figure(title: str, svg: str, *, numbers: Markup, note: object = "", wide: bool = False) -> Markup:
    """Return a plot with its title, its numbers as a table that opens, and a remark.

    Args:
        title: Its name.
        svg: What `pipeline.inspect.page.plots.svg` made.
        numbers: The table.
        note: What to see in it.
        wide: Whether it takes the whole width; on a narrow screen it is moved sideways then.
    """
    remark = f"<p>{cell(note)}</p>" if note else ""
    picture = (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{attribute(title)}">{svg}</div>' if wide else svg
    )
    return Markup(
        f'<figure class="plot{" wide" if wide else ""}"><figcaption><h3>{cell(title)}</h3>{remark}</figcaption>{picture}'
        f"<details><summary>Numbers<span class='sr'> of {cell(title)}</span></summary>{numbers}</details></figure>"
    )


def grid(blocks: Iterable[str], *, small: bool = False) -> Markup:
    """Return blocks side by side, as many as fit: two, or three if they are small."""
    return Markup(f'<div class="grid{" small" if small else ""}">{"".join(blocks)}</div>')


def paragraph(text: object) -> Markup:
    """Return a paragraph."""
    return Markup(f"<p>{cell(text)}</p>")


def note(kind: str, text: object) -> Markup:
    """Return a remark with a mark: `good`, `warn` or `info`."""
    mark, name = {"good": ("✓", "good"), "warn": ("!", "to look at"), "info": ("i", "note")}[kind]
    return Markup(
        f'<p class="note {kind}"><span class="mark" aria-hidden="true">{mark}</span>'
        f'<span><span class="sr">{name}: </span>{cell(text)}</span></p>'
    )


def quotation(text: str, limit: int) -> Markup:
    """Return a text of the output as it is, with its lines."""
    return Markup(f'<p class="text" dir="auto">{shown(text, limit)}</p>')


def code(command: str) -> Markup:
    """Return a command to copy."""
    return Markup(
        f'<div class="scroll" tabindex="0" role="group" aria-label="command"><pre><code>{shown(command)}</code></pre></div>'
    )
