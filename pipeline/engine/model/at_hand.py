"""Finds the tokenizer that made an output, if it is on this machine: in a folder, or in the hub's cache. It asks no network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.engine.config import ModelConfig
from pipeline.engine.model.files.checkpoint import TOKENIZER_FILES
from pipeline.engine.model.files.digests import digests
from pipeline.engine.model.quick import quick_tokenizer
from pipeline.engine.model.tokenizer import load_tokenizer
from pipeline.errors import ModelRefused
from pipeline.types import Tokenizer
from pipeline.wording import one_line


def tokenizer_at_hand(model: ModelConfig, content: Mapping[str, str]) -> Tokenizer:
    """Load the tokenizer of a model, without transformers where its `tokenizer.json` is all that it takes.

    Args:
        model: The model, as the output's configuration names it.
        content: File → SHA-256, as the output's plan has it.

    Raises:
        ModelRefused: If it is not here, is another one than that of the plan, or cannot be loaded.
    """
    name, revision = (model.path, model.revision) if model.tokenizer is None else (model.tokenizer, None)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _cached(name, revision)
    for file in TOKENIZER_FILES:
        here = digests([folder / file])[0] if (folder / file).is_file() else None
        if here != content.get(f"tokenizer/{file}"):
            raise ModelRefused(f"the tokenizer in {folder} is not the one of the plan: {file} differs")
    return quick_tokenizer(folder, None) or load_tokenizer(folder, 0)


def _cached(name: str, revision: str | None) -> Path:
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelRefused(f"there is no folder {name} here")
    from huggingface_hub import snapshot_download  # late: a folder needs no hub

    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=list(TOKENIZER_FILES), local_files_only=True)
        )
    except (OSError, ValueError) as error:  # those of the hub are such
        raise ModelRefused(f"the hub's cache does not hold the tokenizer of {name}: {one_line(error)}") from error
