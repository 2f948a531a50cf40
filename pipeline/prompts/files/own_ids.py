"""The ids that rows have of their own: a column's values, or what a template makes of several columns."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pipeline.errors import ConfigurationError
from pipeline.prompts.config import SourceConfig
from pipeline.prompts.files.cells import cells
from pipeline.prompts.template.template import compile_template
from pipeline.types import ErrorCode, RowError


class OwnIds:
    """Makes row ids from columns.

    Attributes:
        option: The option that asks for them.
        columns: The columns that they are made of.
    """

    def __init__(self, config: SourceConfig) -> None:
        """Compile the template, if there is one.

        Raises:
            ConfigurationError: If it cannot be compiled, or uses no column.
        """
        text = config.id_template
        self.option = "source.id_column" if text is None else "source.id_template"
        self._template = None if text is None else compile_template(text, self.option)
        self.columns = [config.id_column or ""] if self._template is None else self._template.columns
        if not self.columns:
            raise ConfigurationError(
                f"{self.option} uses no column, so every row has the same id; write a column as {{{{ name }}}}"
            )

    def of(self, table: pa.Table) -> list[Any]:
        """Return the id of each row: a text or a whole number, None where a column is null, or the reason why there is none."""
        code = ErrorCode.NOT_UTF8 if self._template is None else ErrorCode.BAD_TEMPLATE_ROW
        columns = [cells(table.column(name), name, code) for name in self.columns]
        return columns[0] if self._template is None else [self._composed(row) for row in zip(*columns, strict=True)]

    def _composed(self, row: tuple[Any, ...]) -> str | RowError | None:
        assert self._template is not None
        for value in row:
            if value is None or isinstance(value, RowError):
                return value
        try:
            text = self._template.render(dict(zip(self.columns, row, strict=True)))
        except ValueError as error:
            return RowError(ErrorCode.BAD_TEMPLATE_ROW, str(error))
        return text or RowError(ErrorCode.BAD_TEMPLATE_ROW, "the template renders an empty text")


def own_ids(config: SourceConfig) -> OwnIds | None:
    """Return what makes the ids; None if they consist of file and row number."""
    return OwnIds(config) if config.has_ids else None
