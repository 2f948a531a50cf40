"""Finds the tokenizer that made an output, by the configuration that is kept with it."""

from __future__ import annotations

import logging
from typing import Any

from jobs.options.restore import restored
from jobs.spec import specs
from pipeline.errors import PromptmillError
from pipeline.inspect.output import Output
from pipeline.output.folder import CONFIG
from pipeline.types import Tokenizer
from pipeline.wording import one_line

log = logging.getLogger(__name__)


def tokenizer_of(output: Output) -> Tokenizer | None:
    """Return the tokenizer of an output, if it is on this machine; else say why tokens are shown as ids."""
    from pipeline.engine.model.at_hand import tokenizer_at_hand  # late: a tokenizer brings in transformers

    try:
        fingerprint = output.plan().fingerprint
        recipe = fingerprint.get("recipe", "generate")
        config: Any = restored(output.store.get(CONFIG).decode(), specs()[recipe].schema, output.path)
        return tokenizer_at_hand(config.model, fingerprint["model"]["content"])
    except (PromptmillError, OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        log.info("%s: tokens are shown as ids: %s", output.path, one_line(error, 300))
        return None
