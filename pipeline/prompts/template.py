"""Compiles a Jinja template and renders rows with it, within bounds of time and memory.

It does not know where the rows come from or what becomes of the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2 import meta, nodes

from pipeline.errors import ConfigurationError
from pipeline.prompts.instrument import instrument
from pipeline.prompts.sandbox import Sandbox
from pipeline.prompts.wording import one_line

_LOADING = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


class RowTemplate:
    """A compiled template. `render` may be called for one row at a time."""

    def __init__(self, text: str) -> None:
        """Compile the template.

        Raises:
            ConfigurationError: If the syntax is wrong, a filter is not there, or something unsafe is used.
        """
        self._sandbox = Sandbox()
        try:
            tree = self._sandbox.parse(text)
            _refuse_unsafe(tree)
            self.columns = sorted(meta.find_undeclared_variables(tree))
            code = self._sandbox.compile(instrument(tree))
            self._template = jinja2.Template.from_code(self._sandbox, code, self._sandbox.make_globals(None))
        except jinja2.TemplateSyntaxError as error:
            raise ConfigurationError(f"source.template: line {error.lineno}: {one_line(error.message)}") from error
        except (jinja2.TemplateError, SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            raise ConfigurationError(f"source.template: {one_line(error) or type(error).__name__}") from error

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


def compile_template(text: str) -> RowTemplate:
    """Compile a template for use on rows; see `RowTemplate`.

    Raises:
        ConfigurationError: If the syntax is wrong, a filter is not there, or something unsafe is used.
    """
    return RowTemplate(text)


def _refuse_unsafe(tree: nodes.Template) -> None:
    """Refuse at once what the sandbox would refuse on every row."""
    for node in tree.find_all(_LOADING):
        kind = type(node).__name__.lower()
        raise jinja2.TemplateSyntaxError(f"{kind} is not allowed: a template stands alone", node.lineno)
    for access in tree.find_all((nodes.Getattr, nodes.Getitem)):
        name = getattr(access, "attr", None) or getattr(getattr(access, "arg", None), "value", None)
        if isinstance(name, str) and name.startswith("__"):
            raise jinja2.TemplateSyntaxError(f"access to {one_line(name, 40)} is not allowed", access.lineno)
