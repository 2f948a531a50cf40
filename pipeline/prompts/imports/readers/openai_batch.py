"""A request of OpenAI's batch files → a row: `custom_id`, `messages` or `prompt`, `tools`, `sampling`, and what is left.

https://platform.openai.com/docs/guides/batch describes the files. `sampling` is JSON text in promptmill's names, as
`source.sampling_column` takes it; what it has no name for is kept in `unmapped`, as JSON text, too.
"""

from __future__ import annotations

from typing import Any

from pipeline.prompts.imports.readers.one_record import Unusable, dumped
from pipeline.wording import brief, listed

SAME = (
    "n", "temperature", "top_p", "stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "top_k", "min_p",
    "repetition_penalty", "min_tokens", "stop_token_ids", "ignore_eos", "bad_words", "max_tokens",
)  # fmt: skip
"""What has the same name and meaning; those that OpenAI does not have are vLLM's."""
RENAMED = {
    "max_completion_tokens": "max_tokens", "guided_regex": "regex", "guided_choice": "choice", "guided_json": "json_schema",
}  # fmt: skip
_SILENT = ("model", "stream")
"""Fields that do not affect the text of a completion: they are kept like the rest, without a note."""
_TEXT = ("messages", "prompt", "tools")


class Batch:
    """Turns requests into rows, and remembers which fields it could not map.

    Attributes:
        unmapped: Fields of request bodies that correspond to no parameter of promptmill.
    """

    def __init__(self) -> None:
        """Begin."""
        self.unmapped: set[str] = set()

    def row(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return a request as a row.

        Raises:
            Unusable: If it is not a request for a completion.
        """
        custom_id, body = request.get("custom_id"), request.get("body")
        if not isinstance(custom_id, str) or not custom_id:
            raise Unusable("has no custom_id, which has to be a text")
        if not isinstance(body, dict):
            raise Unusable("has no body, which has to be an object")
        row = {"custom_id": custom_id, **_asked(body)}
        sampling: dict[str, Any] = {}
        rest: dict[str, Any] = {}
        for name, value in body.items():
            if value is None or name in _TEXT:
                continue
            if name in SAME:
                sampling.setdefault(name, value)
            elif name in RENAMED:
                sampling[RENAMED[name]] = value
            elif name == "response_format" and (schema := _schema(value)) is not None:
                sampling.update(schema)
            else:
                rest[name] = value
        self.unmapped.update(rest)
        row["sampling"] = dumped(sampling) if sampling else None
        if body.get("tools") is not None:
            row["tools"] = dumped(body["tools"])
        if rest:
            row["unmapped"] = dumped(rest)
        return row

    def told(self) -> str | None:
        """Return the note about fields that were not mapped; None if all were."""
        found = sorted(self.unmapped.difference(_SILENT))
        if not found:
            return None
        logprobs = {"logprobs", "top_logprobs"} & set(found)
        instead = "; every output has token_logprobs, stats.top_logprobs=K adds the likeliest" if logprobs else ""
        return f"kept in the column unmapped, as generate does not follow them: {listed(found)}{instead}"


def _asked(body: dict[str, Any]) -> dict[str, Any]:
    messages, prompt = body.get("messages"), body.get("prompt")
    if messages is not None and prompt is not None:
        raise Unusable("has messages and a prompt; it can have one of them")
    if isinstance(messages, list):
        return {"messages": messages}
    if isinstance(prompt, str):
        return {"prompt": prompt}
    if isinstance(prompt, list):
        raise Unusable("has a list as its prompt; write a request for each")
    there = listed([brief(name) for name in body]) or "nothing"
    raise Unusable(f"has no messages and no prompt in its body, which has {there}")


def _schema(value: Any) -> dict[str, Any] | None:
    """Return the sampling parameters that correspond to a response format; None if there are none."""
    if not isinstance(value, dict):
        return None
    if value.get("type") == "text":
        return {}
    within = value.get("json_schema")
    if value.get("type") == "json_schema" and isinstance(within, dict) and isinstance(within.get("schema"), dict):
        return {"json_schema": within["schema"]}
    return None
