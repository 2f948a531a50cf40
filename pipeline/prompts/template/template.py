"""Compiles a Jinja template and renders rows with it, within bounds of time and memory."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2 import meta, nodes

from pipeline.errors import ConfigurationError
from pipeline.prompts.template.instrument import instrument, restored
from pipeline.prompts.template.sandbox import Sandbox
from pipeline.wording import one_line

_LOADING = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


class RowTemplate:
    """A compiled template. `render` may be called for one row at a time."""

    def __init__(self, text: str, option: str) -> None:
        """Compile the template.

        Args:
            text: The template.
            option: The option that has it, for messages.

        Raises:
            ConfigurationError: If the syntax is wrong, a filter is not there, or something unsafe is used.
        """
        self._sandbox = Sandbox()
        try:
            text, mark = _without_returns(text)
            tree = restored(self._sandbox.parse(text), mark)
            _refuse_unsafe(tree)
            _refuse_alike(tree)
            self.columns = sorted(meta.find_undeclared_variables(tree) | self._named_as_functions(tree))
            code = self._sandbox.compile(instrument(tree))
            self._template = jinja2.Template.from_code(self._sandbox, code, self._sandbox.make_globals(None))
        except jinja2.TemplateSyntaxError as error:
            raise ConfigurationError(f"{option}: line {error.lineno}: {one_line(error.message)}") from error
        except (jinja2.TemplateError, SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            raise ConfigurationError(f"{option}: {one_line(error) or type(error).__name__}") from error

    def _named_as_functions(self, tree: nodes.Template) -> set[str]:
        """Return the columns that are named like one of Jinja's functions: such names that are not called."""
        callees = {id(call.node) for call in tree.find_all(nodes.Call)}
        names = [
            name for name in tree.find_all(nodes.Name) if name.ctx == "load" and name.name in self._sandbox.globals
        ]
        declared = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
        columns = {name.name for name in names if id(name) not in callees} - declared
        for name in names:
            if name.name in columns and id(name) in callees:
                raise jinja2.TemplateSyntaxError(
                    f"{name.name!r} is used as a column and called as Jinja's function; rename the column", name.lineno
                )
        return columns

    def render(self, row: Mapping[str, Any]) -> str:
        """Return the text of one row.

        Args:
            row: Column name → value, `columns` at least.

        Raises:
            ValueError: If the template fails on this row, in one line.
        """
        self._sandbox.start()
        try:
            text = self._template.render(row)
            text.encode()  # a lone surrogate is no text that can be stored
        except Exception as error:  # whatever a template raises is about its row
            raise ValueError(f"{type(error).__name__}: {one_line(error)}") from error
        return text


def compile_template(text: str, option: str = "source.template") -> RowTemplate:
    """Compile a template for use on rows; see `RowTemplate`.

    Raises:
        ConfigurationError: If the syntax is wrong, a filter is not there, or something unsafe is used.
    """
    return RowTemplate(text, option)


def _without_returns(text: str) -> tuple[str, str]:
    """Replace carriage returns, which Jinja would drop, by a blank that it does not take for a line end.

    Returns:
        The text, and the character that stands for a carriage return in it; empty: there was none.

    Raises:
        ValueError: If the text has all such blanks already.
    """
    if "\r" not in text:
        return text, ""
    mark = next((blank for blank in "\x1c\x1d\x1e\x1f\x0b\x0c\x85\u2028\u2029" if blank not in text), None)
    if mark is None:
        raise ValueError("the template has carriage returns and every other kind of blank")
    return text.replace("\r", mark), mark


def _refuse_alike(tree: nodes.Template) -> None:
    """Refuse different names that Python, to which a template is compiled, would treat as one."""
    seen: dict[str, str] = {}
    for name in tree.find_all(nodes.Name):
        other = seen.setdefault(unicodedata.normalize("NFKC", name.name), name.name)
        if other != name.name:
            raise jinja2.TemplateSyntaxError(
                f"the names {other!a} and {name.name!a} differ only in how a character is written (both are "
                f"{unicodedata.normalize('NFKC', other)!r} in NFKC); rename a column",
                name.lineno,
            )


def _refuse_unsafe(tree: nodes.Template) -> None:
    """Refuse at once what the sandbox would refuse on every row."""
    for node in tree.find_all(_LOADING):
        kind = type(node).__name__.lower()
        raise jinja2.TemplateSyntaxError(f"{kind} is not allowed: a template stands alone", node.lineno)
    for access in tree.find_all((nodes.Getattr, nodes.Getitem)):
        name = getattr(access, "attr", None) or getattr(getattr(access, "arg", None), "value", None)
        if isinstance(name, str) and name.startswith("__"):
            raise jinja2.TemplateSyntaxError(f"access to {one_line(name, 40)} is not allowed", access.lineno)
