"""Warns about options that are allowed and probably a mistake, one line each, before anything starts."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.engine.base import Identity
from pipeline.prompts.files.listing import Source
from pipeline.prompts.scored.config import ScoreOptions
from pipeline.prompts.template.template import compile_template
from pipeline.wording import counted
from pipeline.work.config import GenerateConfig
from pipeline.work.score.config import ScoreConfig

_ESCAPE = re.compile(r"\\[ntr]")
_MARKUP = re.compile(r"<\|\w+\|>|\[INST\]|<start_of_turn>")
"""Fragments of templates that render conversations themselves."""


def doubts(config: GenerateConfig, identity: Identity, source: Source) -> Iterator[str]:
    """Yield a line for each doubtful option, with what to write instead.

    Args:
        config: What was asked for.
        identity: The model.
        source: The input.
    """
    if source.damaged:
        more = f" and {counted(len(source.damaged) - 1, 'more row group')}" if source.damaged[1:] else ""
        skipped = config.source.on_corrupt == "skip"
        yield (
            f"the input is damaged: a page does not have the checksum that its header says ({source.damaged[0]}){more}: "
            + (
                "its rows become errors"
                if skipped
                else "the job ends there; source.on_corrupt=skip makes its rows errors"
            )
        )
    sampling, template = config.sampling, config.source.template
    if template is not None and not compile_template(template).columns:
        yield "source.template uses no column, so every row has the same prompt; write a column as {{ name }}"
    texts = {
        "sampling.stop": sampling.stop,
        "sampling.bad_words": sampling.bad_words,
        "source.template": [template or ""],
    }
    for key, values in texts.items():
        found = next((match[0] for text in values if (match := _ESCAPE.search(str(text)))), None)
        if found is not None:
            instead = f"""'{key}={f'["{found}"]' if key.startswith("sampling") else f'"…{found}…"'}'"""
            yield f"{key} has {found} as two characters, a backslash and a letter; double quotes make it one: {instead}"
    if sampling.n > 1 and (sampling.temperature == 0 or sampling.top_k == 1):
        why = "sampling.temperature=0" if sampling.temperature == 0 else "sampling.top_k=1"
        yield f"{why} always takes the most likely token, so the {sampling.n} completions of a prompt are equal"
    if sampling.max_tokens >= (context := identity.max_model_len):
        yield (
            f"sampling.max_tokens={sampling.max_tokens} leaves no room for a prompt in the context of {context} tokens: "
            "a completion may end sooner, at the end of the context"
        )
    if isinstance(config, ScoreConfig):
        yield from _of_scores(config)
    else:  # any text may be scored with a model that is tuned for chat
        yield from _of_chats(config, identity)
    if config.source.limit == 0:
        yield "source.limit=0 takes no row, so the output is empty; null takes all"


def _of_chats(config: GenerateConfig, identity: Identity) -> Iterator[str]:
    source = config.source
    texts = source.token_ids_column is None and not _MARKUP.search(source.template or "")
    if identity.chat_template is not None and texts and not source.is_chat:
        yield (
            "the model has a chat template, but prompts reach it as plain text: set source.chat=true if the model is tuned "
            "for chat"
        )
    if source.is_chat and source.on_long_prompt == "truncate_left":
        yield "source.on_long_prompt=truncate_left cuts a conversation at its beginning: the system message is lost first"


def _of_scores(config: ScoreConfig) -> Iterator[str]:
    score, plain = config.score, ScoreOptions()
    if config.source.paired:
        for key in ("stride", "windows"):
            if getattr(score, key) != getattr(plain, key):
                yield f"score.{key} has no effect: a prompt and what follows it are read in one piece"
    if score.separator != plain.separator and not score.concatenate:
        yield "score.separator has no effect without score.concatenate=true"
