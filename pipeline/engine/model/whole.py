"""Checks that a checkpoint was loaded completely: every weight came from the files, and all their tensors were used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.engine.model.files.shape import shapes
from pipeline.errors import ModelRefused

_COMPUTED = re.compile(r"(^|\.)(rotary_emb\.inv_freq|rotary_pos_emb\.inv_freq|position_ids|masked_bias)$")
"""Tensors that older versions saved, and that are computed today."""
_MASK = re.compile(r"(^|\.)(attn|attention|self_attention|self_attn)\.bias$")
"""The same for a causal mask; it has at least three dimensions, a layer's bias one."""


def check_whole(folder: Path, report: Mapping[str, Any]) -> None:
    """Check transformers' report on loading.

    Args:
        folder: The checkpoint's folder.
        report: `missing_keys`, `unexpected_keys` and `mismatched_keys`.

    Raises:
        ModelRefused: If a tensor is missing, unused or of another shape.
    """
    lacking = sorted(report["missing_keys"])
    if lacking:  # transformers initialises them at random, differently in each replica
        raise ModelRefused(f"{folder}: its weights lack {_some(lacking)}")
    mismatched = sorted(str(entry[0] if isinstance(entry, tuple) else entry) for entry in report["mismatched_keys"])
    if mismatched:
        raise ModelRefused(f"{folder}: {_some(mismatched)} has another shape than config.json asks for")
    if report.get("error_msgs"):
        raise ModelRefused(f"{folder}: {' '.join(str(report['error_msgs'][0]).split())[:200]}")
    left = sorted(name for name in report["unexpected_keys"] if not _COMPUTED.search(name))
    if any(_MASK.search(name) for name in left):
        # a name may lack the base model's prefix there
        stored = shapes(folder)
        left = [name for name in left if not (_MASK.search(name) and len(stored.get(name, ())) > 2)]
    if left:
        raise ModelRefused(
            f"{folder}: config.json has no place for {_some(left)}: without them it would be another model; "
            "see that config.json belongs to these weights"
        )


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
