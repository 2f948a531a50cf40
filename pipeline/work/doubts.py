"""What a configuration may say and surely does not mean: a line each, before anything starts.

It refuses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.prompts.template.template import compile_template
from pipeline.work.config import GenerateConfig

_ESCAPE = re.compile(r"\\[ntr]")


def doubts(config: GenerateConfig, max_model_len: int) -> Iterator[str]:
    """Yield a line for each doubtful option, with what to write instead.

    Args:
        config: What was asked for.
        max_model_len: Tokens that prompt and generation have at most together.
    """
    sampling, template = config.sampling, config.source.template
    if template is not None and not compile_template(template).columns:
        yield "source.template uses no column, so every row has the same prompt; a column is written {{ name }}"
    texts = {
        "sampling.stop": sampling.stop,
        "sampling.bad_words": sampling.bad_words,
        "source.template": [template or ""],
    }
    for key, values in texts.items():
        found = next((match[0] for text in values if (match := _ESCAPE.search(str(text)))), None)
        if found is not None:
            instead = f"""'{key}={f'["{found}"]' if key.startswith("sampling") else f'"…{found}…"'}'"""
            yield f"{key} has {found} as two characters, a backslash and a letter; within double quotes it is one: {instead}"
    if sampling.n > 1 and (sampling.temperature == 0 or sampling.top_k == 1):
        why = "sampling.temperature=0" if sampling.temperature == 0 else "sampling.top_k=1"
        yield f"{why} always takes the most likely token, so the {sampling.n} completions of a prompt are equal"
    if sampling.max_tokens >= max_model_len:
        yield (
            f"sampling.max_tokens={sampling.max_tokens} leaves no room for a prompt in the context, {max_model_len} tokens "
            "for both: a completion may end sooner, at the end of the context"
        )
    if config.source.limit == 0:
        yield "source.limit=0 takes no row, so the output is empty; null takes all"
