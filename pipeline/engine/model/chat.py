"""Chat templates of a tokenizer: which one a folder has, rendered by transformers, with a fixed date in place of today's."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.engine.model.files.facts import TOKENIZER, read_facts
from pipeline.types import ChatFormat, Renderer
from pipeline.wording import one_line

FILE = "chat_template.jinja"
MORE = "additional_chat_templates"
_TODAY = re.compile(r"""strftime_now\(\s*(?:format\s*=\s*)?("[^"\\]*"|'[^'\\]*')\s*\)""")
_CALL = re.compile(r"strftime_now\s*\(")


def find_template(folder: Path) -> str | None:
    """Return the texts of a tokenizer's chat templates, one after the other; None if it has none.

    Raises:
        ModelRefused: If a file that may hold them is malformed.
    """
    files = [folder / FILE, *sorted((folder / MORE).glob("*.jinja"))]
    texts = [file.read_text("utf-8", "replace") for file in files if file.is_file()]
    config = folder / "tokenizer_config.json"
    if not texts and config.is_file():
        found = read_facts(config, TOKENIZER).get("chat_template")
        texts = [t["template"] if isinstance(t, dict) and "template" in t else str(t) for t in _listed(found)]
    return "\n".join(texts) or None


def _listed(found: Any) -> Sequence[Any]:
    if isinstance(found, dict):
        return list(found.values())
    return found if isinstance(found, list) else [] if found is None else [found]


def asks_for_the_day(template: str) -> bool:
    """Whether a template puts today's date into a prompt."""
    return _CALL.search(template) is not None


def dated(template: str, day: str | None) -> str:
    """Return the template with its request for today's date replaced by a fixed date.

    A prompt that holds the date of the day on which it is rendered would differ after midnight, and in a replay.

    Args:
        template: The chat template.
        day: `2026-11-28`; None: the template asks for none.

    Raises:
        ValueError: If the template passes a format that is not a literal.
    """
    if day is None:
        return template
    moment = datetime.datetime.fromisoformat(day)
    told = _TODAY.sub(lambda call: json.dumps(moment.strftime(call[1][1:-1])), template)
    if _CALL.search(told):
        raise ValueError(
            "calls strftime_now with a format that is not a literal; give another template with source.chat_template"
        )
    return told


def renderer(inner: Any, form: ChatFormat) -> Renderer:
    """Return a function that renders conversations with a transformers tokenizer.

    Raises:
        ValueError: If the template does not compile, or there is none.
    """
    own = _own(inner, form)

    def render(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None) -> str:
        try:
            made: str = inner.apply_chat_template(
                [dict(message) for message in messages], tools=None if tools is None else list(tools),
                chat_template=own["tool_use" if tools and "tool_use" in own else "default"], tokenize=False,
                add_generation_prompt=form.opens and not form.continue_final, continue_final_message=form.continue_final,
                **json.loads(form.arguments),
            )  # fmt: skip
        except Exception as error:  # a template's exception concerns its row only
            raise ValueError(one_line(error) or type(error).__name__) from error
        return made

    return render


def _own(inner: Any, form: ChatFormat) -> dict[str, str]:
    """Return the templates by name, with fixed dates. Each is compiled, so that an error in it is found before any row."""
    given = form.template if form.template is not None else inner.chat_template
    named = dict(given) if isinstance(given, dict) else {"default": given}
    if named.get("default") is None:
        raise ValueError("the tokenizer has no chat template of that name; give one with source.chat_template")
    own = {name: dated(text, form.day) for name, text in named.items()}
    for text in own.values():
        _compile(text)
    return own


def _compile(template: str) -> None:
    """Refuse a template that Jinja does not understand."""
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        render_jinja_template([[]], chat_template=template)
    except Exception as error:
        # only a line that cannot be compiled has a number; few templates render a conversation without messages
        if (line := getattr(error, "lineno", None)) is not None:
            raise ValueError(f"line {line}: {one_line(error)}") from error
