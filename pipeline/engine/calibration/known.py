"""Keeps calibrations, and how long completions of a model became, in the user's cache folder. It imports no torch."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.engine.calibration.figures import Calibration
from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.engine.model.files.checkpoint import Checkpoint
from pipeline.engine.model.files.shape import shapes
from pipeline.engine.setting import about_processor, caps, digest_of_code
from pipeline.machine import cores
from pipeline.sampling import SamplingParams
from pipeline.user_cache import cache_file, read_cache, replace_cache

CALIBRATIONS, ENDINGS = "calibrations.json", "endings.json"
_MOST = 100
"""Entries of a file; the oldest go."""
_PACKAGES = ("torch", "transformers", "numpy")
_NAMES = frozenset({"_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype"})
"""What a model's configuration says that has nothing to do with its shape."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endings:
    """How completions ended.

    Attributes:
        tokens: Tokens of all completions.
        stopped: Completions that ended before `max_tokens`.
        completions: All of them.
    """

    tokens: int
    stopped: int
    completions: int

    @property
    def chance(self) -> float:
        """The chance of a completion to end with any one token."""
        return min(1.0, self.stopped / self.tokens) if self.tokens > 0 else 0.0


def key_of(
    checkpoint: Checkpoint, model: ModelConfig, engine: EngineConfig, stats: StatsConfig, sampling: SamplingParams | None,
    max_len: int, threads: int,
) -> str:  # fmt: skip
    """Return the key of a calibration: a digest of the machine, the installation, the model's shape, and how it is run.

    Args:
        checkpoint: The model's files.
        model: How it is loaded.
        engine: How it is batched.
        stats: What is computed for each token.
        sampling: How tokens are chosen; None: they are scored.
        max_len: Longest sequence, tokens.
        threads: CPU threads.
    """
    shape = {name: value for name, value in checkpoint.config.items() if name not in _NAMES}
    facts = {
        "processor": about_processor(), "cores": cores(), "threads": threads, "caps": caps(),
        "packages": [_version(name) for name in _PACKAGES], "code": digest_of_code(),
        "shape": [shape, shapes(checkpoint.directory)], "max_len": max_len,
        "model": [model.dtype, model.quantization, model.kv_cache_dtype],
        "engine": [engine.kernels, engine.max_num_seqs, engine.max_num_batched_tokens],
        "stats": asdict(stats), "sampling": None if sampling is None else _manner(sampling),
    }  # fmt: skip
    return _digest(facts)


def key_of_endings(content: Mapping[str, str], sampling: SamplingParams) -> str:
    """Return the key of what is known of a model's endings under these stop rules."""
    plain = sampling.plain()
    rules = {name: plain[name] for name in plain if name not in ("max_tokens", "seed", "n")}
    return _digest([dict(content), rules])


def known_calibration(key: str) -> Calibration | None:
    """Return a calibration that was kept; None if there is none."""
    text = _read(CALIBRATIONS).get(key)
    try:
        return Calibration.from_json(text) if isinstance(text, str) else None
    except ValueError:
        return None


def keep_calibration(key: str, calibration: Calibration) -> None:
    """Keep a calibration."""
    _keep(CALIBRATIONS, key, calibration.to_json())


def known_endings(key: str) -> Endings | None:
    """Return what is known of endings; None: nothing."""
    found = _read(ENDINGS).get(key)
    if not (isinstance(found, list) and len(found) == 3 and all(type(n) is int and n >= 0 for n in found)):
        return None
    return Endings(*found)


def keep_endings(key: str, endings: Endings) -> None:
    """Keep how the completions of the latest run ended."""
    _keep(ENDINGS, key, [endings.tokens, endings.stopped, endings.completions])


def _manner(sampling: SamplingParams) -> list[object]:
    """Return what of the sampling parameters makes a step longer."""
    penalties = sampling.repetition_penalty != 1 or bool(sampling.presence_penalty or sampling.frequency_penalty)
    return [
        sampling.temperature == 0, sampling.top_k > 0, sampling.top_p < 1, sampling.min_p > 0, penalties,
        bool(sampling.logit_bias), bool(sampling.bad_words), len(sampling.stop), sampling.structured,
    ]  # fmt: skip


def _read(name: str) -> dict[str, Any]:
    file = cache_file(name)
    return {} if file is None else read_cache(file)


def _keep(name: str, key: str, value: Any) -> None:
    file = cache_file(name)
    if file is None:
        return
    entries = {k: v for k, v in _read(name).items() if k != key} | {key: value}
    try:
        replace_cache(file, dict(list(entries.items())[-_MOST:]))
    except OSError as error:
        _log.debug("%s cannot be written: %s", file, error)


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
