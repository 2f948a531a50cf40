"""Says where a model comes from, and whether its tokenizer fits its weights. It reads no weights."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.engine.model.files.checkpoint import Checkpoint
from pipeline.wording import brief

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LICENCE = re.compile(r"^license(?:_name)?:[ \t]*[\"']?([\w.+-]{1,60})[\"']?[ \t]*$", re.MULTILINE)
_FITTING = 0.9
"""Share of a model's tokens that its tokenizer has at least; the others pad its embedding to a round number."""
_FRONT_MATTER = 20_000
"""Characters at the beginning of a card in which its front matter is looked for."""


def provenance(checkpoint: Checkpoint, content: Mapping[str, str]) -> dict[str, str]:
    """Return the model's commit on the hub, its licence, and the SHA-256 of weights and tokenizer, as far as they are known.

    Args:
        checkpoint: The model's files.
        content: File name → SHA-256, as `Checkpoint.content` has it.
    """
    folder = checkpoint.directory.resolve()
    weights = {n: d for n, d in content.items() if n.startswith("model/") and n.endswith(".safetensors")}
    tokenizer = {name: digest for name, digest in content.items() if name.startswith("tokenizer/")}
    found = {
        "model_commit": folder.name if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name) else None,
        "model_licence": _licence(checkpoint.directory / "README.md"),
        "weights_sha256": _together(weights),
        "tokenizer_sha256": _together(tokenizer),
    }
    return {name: value for name, value in found.items() if value}


def misfits(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield a line for each way in which the tokenizer does not fit the weights."""
    size, vocabulary = checkpoint.vocab_size, _vocabulary(checkpoint.tokenizer / "tokenizer.json")
    if size is None:
        return
    if vocabulary is not None and vocabulary > size:
        yield (
            f"the tokenizer has {vocabulary:,} tokens, and the model {size:,}: rows that have one of the others become errors; "
            "name the model's own with model.tokenizer"
        )
    if vocabulary is not None and vocabulary < _FITTING * size:
        yield (
            f"the tokenizer has {vocabulary:,} tokens, and the model {size:,}: it may be another model's, and its ids then "
            "mean other texts; name the model's own with model.tokenizer"
        )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = checkpoint.text.get(name)
        for token in value if isinstance(value, list) else [value]:
            if isinstance(token, int) and not isinstance(token, bool) and not 0 <= token < size and token != -1:
                yield f"config.json: {name}={brief(token)} is no token of the model, which has ids 0 to {size - 1}"


def _together(files: Mapping[str, str]) -> str | None:
    """Return the digest of one file, or one of the names and digests of several, as `sha256sum` lists them."""
    if len(files) == 1:
        return next(iter(files.values()))
    listing = "".join(f"{digest}  {name.partition('/')[2]}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(listing.encode()).hexdigest() if files else None


def _licence(card: Path) -> str | None:
    """Return the licence that a model's card names."""
    try:
        with card.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_FRONT_MATTER)
    except OSError:
        return None
    front = text.split("\n---", 1)[0] if text.startswith("---") else ""
    match = _LICENCE.search(front)
    return match[1] if match else None


def _vocabulary(path: Path) -> int | None:
    """Return the number of ids of a fast tokenizer's file; None where that cannot be told."""
    try:
        body: Any = json.loads(path.read_bytes())
        vocabulary = body["model"]["vocab"]
        ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
        added = [token["id"] for token in body.get("added_tokens") or ()]
        return max(max(ids, default=-1), max(added, default=-1)) + 1
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
