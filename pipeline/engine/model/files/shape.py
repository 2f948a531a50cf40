"""Checks the sizes in `config.json` against the headers of the weights beside it.

A model is built in memory from its configuration before its weights are loaded, so a size that is far too large would exhaust
the memory first. The check reads no weights and does not import torch.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ModelRefused

_MOST_BYTES = 100_000_000
"""Largest header in bytes, as in safetensors itself."""
_WIDTHS = (
    "vocab_size", "hidden_size", "n_embd", "d_model", "intermediate_size", "n_inner", "ffn_dim", "moe_intermediate_size",
    "head_dim", "num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads",
)  # fmt: skip
"""Keys whose value is a dimension of a weight, or divides one."""
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
_POSITION_TABLE = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings|position_embedding|pos_emb)\.weight$")
_NUMBER = re.compile(r"(?:^|\.)(\d+)(?=\.)")


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return tensor → shape from the headers of a folder's safetensors; a file without a valid header is skipped."""
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= _of_file(path)
    return found


def _of_file(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length <= _MOST_BYTES else {}
        found = {name: tuple(facts["shape"]) for name, facts in header.items() if name != "__metadata__"}
        return found if all(isinstance(n, int) for shape in found.values() for n in shape) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error):
        return {}  # whoever loads it tells what is wrong


def check_sizes(folder: Path, config: Mapping[str, Any]) -> None:
    """Check that no size in the configuration exceeds that of the weights.

    Args:
        folder: The model's folder.
        config: The content of its `config.json`.

    Raises:
        ModelRefused: If one does; the message names the file, the key and the size of the weights.
    """
    found = shapes(folder)
    if not found:
        return
    nested = config.get("text_config") or {}
    for key, value, most, what in _limits({**config, **nested}, found):
        if value > most:
            within = "text_config." if key in nested else ""
            raise ModelRefused(
                f"{folder / 'config.json'}: {within}{key}={value}: its weights have {what}; see that config.json belongs to "
                "these weights"
            )


def _limits(config: Mapping[str, Any], found: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, int, int, str]]:
    """Yield (key, value, largest value that the weights allow, the weights' shape for the message)."""
    widest = max((max(shape, default=1) for shape in found.values()), default=1)
    numbers = {int(number) for name in found for number in _NUMBER.findall(name)}
    layers = max(numbers, default=-1) + 1
    positions = max(
        (shape[0] for name, shape in found.items() if _POSITION_TABLE.search(name) and shape), default=math.inf
    )
    for key in _WIDTHS:
        for value in _wholes(config.get(key)):
            yield key, value, widest, f"no dimension above {widest}"
    if layers:
        for key in _LAYERS:
            for value in _wholes(config.get(key)):
                yield key, value, layers, f"{layers} layers at most (one that is used more than once is not served)"
    mixture = any("expert" in name for name in found)  # a dense model may carry a number that it ignores
    for key in _EXPERTS if mixture else ():
        for value in _wholes(config.get(key)):
            yield key, value, max(widest, layers), f"{max(widest, layers)} experts at most"
    if positions != math.inf:
        for key in _POSITIONS:
            for value in _wholes(config.get(key)):
                yield key, value, int(positions), f"{positions} positions"


def _wholes(value: Any) -> list[int]:
    return [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int)]
