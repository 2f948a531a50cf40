"""Conversations: from a column, or made of a prompt, to the text with which a model was trained to go on.

Which template there is, and how it is rendered, is the tokenizer's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.prompts.config import SourceConfig
from pipeline.prompts.files.cells import cells
from pipeline.prompts.template.template import RowTemplate, compile_template
from pipeline.types import ErrorCode, Messages, RowError, Tokenizer
from pipeline.wording import brief, one_line

_Text = str | None | RowError
_WITHOUT_CONTENT = ("tool_calls", "function_call")
"""With one of these, a message need not say anything."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A row's conversation: its messages, and the tools that the model may call."""

    messages: Messages
    tools: Sequence[Any] | None = None


class Conversations:
    """Turns rows into conversations, and conversations into prompts.

    Args:
        config: Where they come from.
        tokenizer: Renders them.

    Raises:
        ValueError: If there is no chat template, or it does not compile.
    """

    def __init__(self, config: SourceConfig, tokenizer: Tokenizer) -> None:
        """Compile the templates."""
        self._config, self._render = config, tokenizer.chat(config.chat_format())
        self._system = (
            None if config.system_prompt is None else compile_template(config.system_prompt, "source.system_prompt")
        )

    def of(self, table: pa.Table, prompts: Sequence[_Text]) -> list[Conversation | RowError | None]:
        """Return the conversation of each row; None: it is null.

        Args:
            table: The rows.
            prompts: What the user says in each, where no column has the messages.
        """
        found = self._column(table) if self._config.messages_column else [self._asked(prompt) for prompt in prompts]
        tools = self._tools(table, len(found))
        system = rendered_rows(self._system, table, len(found))
        return [_complete(*parts) for parts in zip(found, tools, system, strict=True)]

    def prompt(self, conversation: Conversation | RowError | None) -> _Text:
        """Return the prompt of a conversation, or why there is none."""
        if not isinstance(conversation, Conversation):
            return conversation
        try:
            text = self._render(conversation.messages, conversation.tools)
            text.encode()  # a lone surrogate is no text that can be stored
        except ValueError as error:
            return _bad(f"the messages do not fit the chat template: {error}")
        return text

    def _asked(self, prompt: _Text) -> Conversation | RowError | None:
        """A conversation that consists of the user's message only."""
        if not isinstance(prompt, str):
            return prompt
        if not prompt and self._config.on_empty_prompt == "error":
            return RowError(
                ErrorCode.EMPTY_PROMPT, "the user's message is empty; source.on_empty_prompt=bos lets it pass"
            )
        return Conversation([{"role": "user", "content": prompt}])

    def _column(self, table: pa.Table) -> list[Conversation | RowError | None]:
        name = self._config.messages_column or ""
        return [_conversation(value) for value in cells(table.column(name), name, ErrorCode.BAD_TEMPLATE_ROW)]

    def _tools(self, table: pa.Table, rows: int) -> list[Any]:
        name = self._config.tools_column
        if name is None:
            return [None] * rows
        return [_tools_of(value) for value in cells(table.column(name), name, ErrorCode.BAD_TEMPLATE_ROW)]


def rendered_rows(template: RowTemplate | None, table: pa.Table, rows: int) -> list[_Text]:
    """Render a template over each row; None without one."""
    if template is None:
        return [None] * rows
    names = template.columns
    columns = [cells(table.column(name), name, ErrorCode.BAD_TEMPLATE_ROW) for name in names]
    # a table without columns does not know how many rows it has
    values = zip(*columns, strict=True) if columns else [()] * rows
    return [_rendered(template, names, row) for row in values]


def _rendered(template: RowTemplate, names: Sequence[str], row: Sequence[Any]) -> _Text:
    for value in row:
        if isinstance(value, RowError):
            return value
    try:
        return template.render(dict(zip(names, row, strict=True)))
    except ValueError as error:
        return RowError(ErrorCode.BAD_TEMPLATE_ROW, str(error))


def _complete(
    found: Conversation | RowError | None, tools: Sequence[Any] | RowError | None, system: _Text
) -> Conversation | RowError | None:
    """Put the system prompt before a conversation that has none, and return its tools with it."""
    if not isinstance(found, Conversation):
        return found
    for part in (tools, system):
        if isinstance(part, RowError):
            return part
    messages = found.messages
    if system is not None and messages[0]["role"] not in ("system", "developer"):
        messages = [{"role": "system", "content": system}, *messages]
    return Conversation(messages, found.tools if tools is None else tools)  # type: ignore[arg-type]


def _conversation(value: Any) -> Conversation | RowError | None:
    """Read a cell: messages, an object that has them, or the JSON text of either."""
    if value is None or isinstance(value, RowError):
        return value
    try:
        value = _without_nulls(_parsed(value))
        tools = None
        if isinstance(value, Mapping):
            if "messages" not in value:
                raise ValueError("an object without `messages`")
            tools, value = _tools(value.get("tools")), value["messages"]
        if not isinstance(value, list | tuple) or not value:
            raise ValueError("not a list of messages" if value != [] else "a conversation without messages")
        return Conversation([_message(message, place) for place, message in enumerate(value, start=1)], tools)
    except (ValueError, RecursionError) as error:
        return _bad(str(error))


def _tools_of(value: Any) -> Sequence[Any] | RowError | None:
    if isinstance(value, RowError):
        return value
    try:
        return _tools(_without_nulls(_parsed(value)))
    except (ValueError, RecursionError) as error:
        return _bad(str(error))


def _tools(value: Any) -> Sequence[Any] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(isinstance(tool, Mapping) for tool in value):
        raise ValueError("tools are not a list of objects")
    return value or None


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error


def _without_nulls(value: Any) -> Any:
    """Leave out nulls: fields of a struct that only other rows have, and what OpenAI's files write for an absent value."""
    if isinstance(value, Mapping):
        return {str(name): _without_nulls(part) for name, part in value.items() if part is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(part) for part in value]
    return value


def _message(message: Any, place: int) -> Mapping[str, Any]:
    """Check one message; join contents in parts into one text, and parse the JSON of tools' arguments."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or not message["role"]:
        raise ValueError(f"message {place} has no role")
    where = f"message {place} ({brief(message['role'])})"
    if "content" not in message and not any(name in message for name in _WITHOUT_CONTENT):
        raise ValueError(f"{where} has no content")
    told = dict(message)
    if isinstance(told.get("content"), list):
        told["content"] = "\n".join(_part(part, where) for part in told["content"])
    if "content" in told and not isinstance(told["content"], str):
        raise ValueError(f"{where}: its content is not text: {brief(told['content'])}")
    if isinstance(told.get("tool_calls"), list):
        told["tool_calls"] = [_call(call) for call in told["tool_calls"]]
    return told


def _part(part: Any, where: str) -> str:
    if isinstance(part, Mapping) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else part
    raise ValueError(f"{where} has a part that is not text: {brief(kind)}")


def _call(call: Any) -> Any:
    """A tool's call with its arguments as an object: OpenAI's files have them as JSON text, and templates expect an object."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call


def _bad(message: str) -> RowError:
    return RowError(ErrorCode.BAD_TEMPLATE_ROW, one_line(message))
