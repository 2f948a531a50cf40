"""Reports the settings of a checkpoint for transformers' `generate` that a job ignores, before anything starts.

`generate` takes its defaults from `generation_config.json`. A job's output follows from its own configuration, so of that file
only the end tokens count.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from pipeline.engine.model.files.checkpoint import Checkpoint
from pipeline.engine.model.files.facts import GENERATION, read_facts
from pipeline.sampling import SamplingParams
from pipeline.wording import one_line

_FILE = "generation_config.json"
_SHOWN = 40
_DRAWN = ("temperature", "top_k", "top_p", "min_p")
"""Keys that matter when sampling, and have the same name here."""
_RENAMED = {"repetition_penalty": "repetition_penalty", "min_new_tokens": "min_tokens"}
"""Keys that always matter, with their name here."""
_OFF: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("typical_p", "guidance_scale", "num_beams", "encoder_repetition_penalty"), (1,)),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "epsilon_cutoff", "eta_cutoff"), (0,)),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids"), ([],)),
    "sequence_bias": ([], {}),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty", "top_h"), ()),
    **dict.fromkeys(("watermarking_config", "dola_layers", "constraints"), ()),
    **dict.fromkeys(("penalty_alpha", "diversity_penalty", "min_length"), (0,)),
    **dict.fromkeys(("remove_invalid_values", "renormalize_logits", "token_healing"), (False,)),
}  # fmt: skip
"""Keys without an equivalent here → the values, besides null, with which they have no effect."""


def ignored(checkpoint: Checkpoint, sampling: SamplingParams) -> Iterator[str]:
    """Yield a line about ignored settings that have an equivalent here, and one about those that have none."""
    try:
        asked = read_facts(checkpoint.directory / _FILE, GENERATION)
    except FileNotFoundError:
        return
    wanted = [
        f"sampling.{name}={one_line(value, _SHOWN)}" for key, name in _names(asked)
        if (value := asked.get(key)) is not None and value != getattr(sampling, name)
    ]  # fmt: skip
    texts = asked.get("stop_strings") or []
    stop = [texts] if isinstance(texts, str) else texts
    if missing := [text for text in stop if text not in sampling.stop]:
        wanted.append(shlex.quote(f"sampling.stop={one_line(json.dumps(missing), _SHOWN)}"))
    if wanted:
        yield (
            f"the model's {_FILE} has defaults for transformers' generate, which are not used here; to have them too: "
            + " ".join(wanted)
        )
    undone = [f"{key}={one_line(asked[key], _SHOWN)}" for key, off in _OFF.items() if _is_on(asked.get(key), off)]
    if undone:
        yield (
            f"the model's {_FILE} asks for {', '.join(undone)}, which is not done here: texts differ from those of "
            "transformers' generate (sampling.logit_bias and sampling.bad_words keep tokens away)"
        )


def _names(asked: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the keys that matter and have an equivalent here, with its name."""
    drawn = [(key, key) for key in _DRAWN] if asked.get("do_sample") else []
    return [*drawn, *_RENAMED.items()]


def _is_on(value: Any, off: tuple[Any, ...]) -> bool:
    return value is not None and value not in off
