"""The figures of a run in the form of lm-evaluation-harness' result files, for what reads those."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigurationError, PromptmillError
from pipeline.output.record.manifest import Manifest
from pipeline.wording import one_line
from pipeline.work.score.config import ScoreConfig

_WHOLE = {"word_perplexity": "word_perplexity", "byte_perplexity": "byte_perplexity", "bits_per_byte": "bits_per_byte"}
_FOLLOWING = {"text_perplexity": "perplexity", "greedy_accuracy": "acc"}
_CHOICES = {
    "accuracy": "acc", "accuracy_per_character": "acc_norm", "accuracy_per_byte": "acc_bytes",
    "accuracy_unconditional": "acc_mutual_info",
}  # fmt: skip
"""Figure → the harness's metric."""


def lm_eval_results(config: ScoreConfig, manifest: Manifest) -> dict[str, Any]:
    """Return the content of a result file; a metric without a standard error has `N/A`, as there.

    Args:
        config: The run's configuration.
        manifest: Its manifest.
    """
    sums, task = manifest.totals.sums, config.benchmark.name or _named(config.source.path)
    names = _CHOICES if "questions" in sums else _FOLLOWING if config.source.paired else _WHOLE
    count = int(sums.get("questions") or sums.get("texts", 0))
    metrics: dict[str, Any] = {"name": task, "alias": task, "sample_len": count}
    better = {}
    for figure, metric in names.items():
        if figure in manifest.figures:
            share = metric.startswith("acc")
            value = manifest.figures[figure]
            metrics[f"{metric},none"] = value
            metrics[f"{metric}_stderr,none"] = (
                math.sqrt(value * (1 - value) / (count - 1)) if share and count > 1 else "N/A"
            )
            better[metric] = share
    path, dtype = config.model.path, manifest.environment.get("dtype", config.model.dtype)
    return {
        "results": {task: metrics}, "group_subtasks": {task: []}, "configs": {task: {"task": task, "num_fewshot": 0}},
        "versions": {task: "promptmill"}, "n-shot": {task: 0}, "higher_is_better": {task: better},
        "n-samples": {task: {"original": count, "effective": count}},
        "config": {
            "model": "promptmill", "model_args": f"pretrained={path},dtype={dtype}", "model_dtype": f"torch.{dtype}",
            "model_revision": config.model.revision or "main", "model_sha": manifest.environment.get("model_commit", ""),
            "batch_size": None, "limit": config.source.limit,
        },
        "date": time.time(), "model_source": "promptmill", "model_name": path,
        "model_name_sanitized": re.sub(r"[\"<>:/|\\?*\[\]]+", "__", path),
        "transformers_version": manifest.environment.get("transformers"),
        "total_evaluation_time_seconds": str(manifest.timings.get("wall_seconds")),
    }  # fmt: skip


def _named(source: str) -> str:
    """Return a task's name: that of the file or folder, of a glob that of the last folder without wildcards."""
    places = (Path(source), *Path(source).parents)
    return next((place.stem for place in places if not set("*?[") & set(str(place))), "") or "texts"


def check_results(path: str) -> None:
    """Refuse a result file that surely cannot be written, before anything starts.

    Raises:
        ConfigurationError: If it is a URI or a folder, or no folder for it can be made.
    """
    try:
        target = Path(path).expanduser().absolute()
        above = next((folder for folder in target.parents if folder.exists()), target)
        is_folder = target.is_dir()
    except (OSError, RuntimeError) as error:  # a folder that may not be searched, or `~name` of nobody
        raise ConfigurationError(f"results={path}: {getattr(error, 'strerror', error)}") from error
    why = None
    if "://" in path:
        why = "is a URI; give a local file"
    elif is_folder:
        why = "is a folder; give a file"
    elif not above.is_dir() or not os.access(above, os.W_OK):
        why = f"cannot be written: {above} is " + ("not writable" if above.is_dir() else "no folder")
    if why is not None:
        raise ConfigurationError(f"results={path}: {why}")


def write_results(path: str, content: Mapping[str, Any]) -> None:
    """Write a result file, whole or not at all; one that is there is replaced.

    Raises:
        PromptmillError: If it cannot be written.
    """
    target = Path(path).expanduser()
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        beside.replace(target)
    except OSError as error:
        raise PromptmillError(
            f"results={path}: cannot be written: {one_line(error)}; the output is complete"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
