"""Checks that the columns which a source names are there and have types that can be used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.types as kinds

from pipeline.errors import InputRefused
from pipeline.prompts.config import SourceConfig
from pipeline.prompts.files.kinds import ANNOTATION, is_json, is_list, is_text, is_uuid
from pipeline.prompts.scored.config import ScoreSource
from pipeline.prompts.scored.tasks import TASKS
from pipeline.prompts.template.template import compile_template
from pipeline.wording import brief, did_you_mean, listed, one_line


def used_columns(config: SourceConfig) -> list[str]:
    """Return the columns from which rows are made, and those that are kept, each once, in the order of the options.

    Raises:
        ConfigurationError: If the template cannot be compiled.
    """
    return list(dict.fromkeys(name for _, name, _, _ in _uses(config)))


def check_columns(config: SourceConfig, schema: pa.Schema) -> None:
    """Check presence and type of every column that is used.

    Raises:
        InputRefused: For the first column that is missing or of a wrong type; the text names the columns there are.
        ConfigurationError: If the template cannot be compiled.
    """
    for option, name, fits, wanted in _uses(config):
        count = len(schema.get_all_field_indices(name))
        if count == 0:
            hint = did_you_mean(name, schema.names) or ";"
            raise InputRefused(f"{option}: there is no column {brief(name)}{hint} {_there_are(schema)}")
        if count > 1:
            raise InputRefused(f"{option}: there are {count} columns with the name {brief(name)}")
        field = schema.field(name)
        if not fits(field):
            kind = one_line(_type_name(field), 60)
            raise InputRefused(f"{option}: column {brief(name)} is {kind}, must be {wanted}; {_there_are(schema)}")


_PLAIN = "a plain Arrow type, not an extension type: cast it in the input, to text for instance"
_Use: TypeAlias = "tuple[str, str, Callable[[pa.Field[Any]], bool], str]"  # quoted: only the stubs are generic


def _uses(config: SourceConfig) -> Iterable[_Use]:
    """Yield (option, column, test of its type, what the test asks for)."""
    if config.prompt_column is not None:
        yield "source.prompt_column", config.prompt_column, _is_text, "a string"
    if config.template is not None:
        for name in compile_template(config.template).columns:
            yield "source.template", name, _is_plain, _PLAIN
    if config.token_ids_column is not None:
        yield "source.token_ids_column", config.token_ids_column, _is_ids, "a list of integers"
    if config.messages_column is not None:
        yield (
            "source.messages_column",
            config.messages_column,
            _is_messages,
            "a list of messages, or a string with JSON",
        )
    if config.system_prompt is not None:
        for name in compile_template(config.system_prompt, "source.system_prompt").columns:
            yield "source.system_prompt", name, _is_plain, _PLAIN
    if config.tools_column is not None:
        yield "source.tools_column", config.tools_column, _is_tools, "a list of objects, or a string with JSON"
    if config.id_column is not None:
        yield "source.id_column", config.id_column, _is_id, "a string or an integer"
    if config.id_template is not None:
        for name in compile_template(config.id_template, "source.id_template").columns:
            yield "source.id_template", name, _is_plain, _PLAIN
    if isinstance(config, ScoreSource):
        yield from _of_scores(config)
    if config.sampling_column is not None:
        yield "source.sampling_column", config.sampling_column, _is_sampling, "a struct or a string with JSON"
    for name in config.keep_columns:
        yield "source.keep_columns", name, _is_plain, f"{_PLAIN}, or leave it out"


def _of_scores(config: ScoreSource) -> Iterable[_Use]:
    if config.task is not None:
        for name in TASKS[config.task].columns:
            yield f"source.task={config.task}", name, _is_plain, _PLAIN
    if config.completion_column is not None:
        name = config.completion_column
        yield "source.completion_column", name, lambda f: _is_text(f) or _is_ids(f), "a string or a list of integers"
    if config.endings_column is not None:
        yield "source.endings_column", config.endings_column, _is_texts, "a list of strings"
    if config.answer_column is not None:
        yield "source.answer_column", config.answer_column, _is_id, "a string or an integer"


def _there_are(schema: pa.Schema) -> str:
    if not schema.names:
        return "there are no columns at all"
    return "there are: " + listed([f"{f.name} ({one_line(_type_name(f), 40)})" for f in schema])


def _type_name(field: pa.Field[Any]) -> str:
    for part in _parts(field):
        metadata = part.metadata or {}
        if ANNOTATION in metadata:
            within = "" if part is field else " in a nested value"
            return f"{metadata[ANNOTATION].decode(errors='replace')}{within}, which Arrow does not have"
    extension = (field.metadata or {}).get(b"ARROW:extension:name")
    return str(field.type) if extension is None else f"extension<{extension.decode(errors='replace')}>"


def _parts(field: pa.Field[Any]) -> Iterator[pa.Field[Any]]:
    """Yield a field and, depth first, the fields within its type."""
    yield field
    for i in range(field.type.num_fields):
        yield from _parts(field.type.field(i))


def _is_text(field: pa.Field[Any]) -> bool:
    return is_text(field.type) or bool(kinds.is_null(field.type))


def _is_ids(field: pa.Field[Any]) -> bool:
    kind = field.type
    return bool(kinds.is_null(kind) or (is_list(kind) and kinds.is_integer(kind.value_type)))


def _is_texts(field: pa.Field[Any]) -> bool:
    kind = field.type
    return bool(kinds.is_null(kind) or (is_list(kind) and (is_text(kind.value_type) or kinds.is_null(kind.value_type))))


def _is_id(field: pa.Field[Any]) -> bool:
    return _is_text(field) or is_uuid(field.type) or bool(kinds.is_integer(field.type))


def _is_sampling(field: pa.Field[Any]) -> bool:
    return _is_text(field) or bool(kinds.is_struct(field.type))


def _is_messages(field: pa.Field[Any]) -> bool:
    kind = field.type
    if kinds.is_struct(kind) and kind.get_field_index("messages") >= 0:
        return _is_plain(field) and _is_messages(kind.field("messages"))
    of_objects = is_list(kind) and kinds.is_struct(kind.value_type) and kind.value_type.get_field_index("role") >= 0
    return _is_text(field) or is_json(kind) or (of_objects and _is_plain(field))


def _is_tools(field: pa.Field[Any]) -> bool:
    kind = field.type
    of_objects = is_list(kind) and bool(kinds.is_struct(kind.value_type))
    return _is_text(field) or is_json(kind) or (of_objects and _is_plain(field))


def _is_plain(field: pa.Field[Any]) -> bool:
    """Whether no part of the type is an extension type, known to this process or not, or a type that Arrow lacks.

    Reading an extension type may run code that its author registered, on bytes that the file's author chose. Arrow's own
    UUID and JSON do not.
    """
    kind = field.type
    if is_uuid(kind) or is_json(kind):
        return True
    if ANNOTATION in (field.metadata or {}):
        return False
    if isinstance(kind, pa.BaseExtensionType) or b"ARROW:extension:name" in (field.metadata or {}):
        return False
    if kinds.is_dictionary(kind):
        return _is_plain(pa.field("values", kind.value_type))
    return all(_is_plain(kind.field(i)) for i in range(kind.num_fields))
