"""What is run: a command for each engine and setting, and where the peers' interpreters and models are.

It runs nothing; see `run`.
"""

from __future__ import annotations

import json
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.parts.workload import REQUESTS, SHARING, answers

WORKLOADS_OF_ALL = ("uniform", "mixed", *SHARING)
"""What every engine runs."""
MEASUREMENTS = ("uniform", "mixed", "prefill", "decode", *SHARING)
"""Workloads, and `decode`: the steps of `uniform` in which every sequence decodes."""
CACHES = {"uniform": ("bfloat16", "int8"), "mixed": ("bfloat16", "int8")} | dict.fromkeys(SHARING, ("int8",))
"""Workload → the other types of cache with which int8 is run."""
WITH_AND_WITHOUT = ("few_shot", "samples")
"""Workloads that run with prefix caching off, too."""
ENGINES = ("limit", "promptmill", "transformers", "vllm", "openvino", "ctranslate2")
PRECISIONS = ("float32", "int8")
PEER_KEYS = {
    "transformers": ("python",),
    "vllm": ("python",),
    "openvino": ("python", "float32", "int8"),
    "ctranslate2": ("python", "model"),
}
TRANSFORMERS_BATCH = {"uniform": 64, "mixed": 16, "few_shot": 16, "samples": 64, "classify": 16, "chat": 16}
"""A large batch wastes most of its work when lengths are mixed, and takes much memory when prompts are long."""
OPENVINO_SETTINGS = {
    "OpenVINO GenAI float32": ("float32", ("INFERENCE_PRECISION_HINT=f32",)),
    "OpenVINO GenAI int8": ("int8", ("INFERENCE_PRECISION_HINT=f32",)),
    "OpenVINO GenAI int8, groups of 128": (
        "int8",
        ("INFERENCE_PRECISION_HINT=f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE=128"),
    ),
}
MODEL_SIZES = ("n_embd", "n_layer", "n_head", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")

Peers = dict[str, dict[str, Path]]


@dataclass(frozen=True, slots=True)
class Line:
    """One engine with one setting: a row of the table."""

    name: str
    engine: str
    precision: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """What all lines share. `requests` None: the workload's own number. `batch`: sequences at a time."""

    model: Path
    batch: int = 64
    requests: int | None = None
    peers: Peers = field(default_factory=dict)


def read_peers(file: Path) -> Peers:
    """Read where the peers are: a table for each, with paths relative to the file.

    Raises:
        SystemExit: If the file cannot be read, has a name that is not known, lacks an interpreter, or a path is not there.
    """
    try:
        tables = tomllib.loads(file.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SystemExit(f"{file}: {error}") from None
    peers: Peers = {}
    for peer, entries in tables.items():
        if peer not in PEER_KEYS:
            raise SystemExit(f"{file}: {peer}: must be one of {', '.join(PEER_KEYS)}")
        if not isinstance(entries, dict) or "python" not in entries:
            raise SystemExit(f"{file}: {peer}: must be a table with `python`, its interpreter")
        for key, value in entries.items():
            if key not in PEER_KEYS[peer] or not isinstance(value, str):
                raise SystemExit(f"{file}: {peer}.{key}: must be a path under {', '.join(PEER_KEYS[peer])}")
            # not resolved: an environment's interpreter is a link, and knows the environment by its own place
            path = file.absolute().parent / Path(value).expanduser()
            if not path.exists():
                raise SystemExit(f"{file}: {peer}.{key}={value!r}: there is no such file or folder")
            peers.setdefault(peer, {})[key] = path
    return peers


def refuse_other_models(peers: Peers, model: Path) -> None:
    """Check that converted models are of the model that is measured, as far as their configurations tell.

    Raises:
        SystemExit: If one differs in a size. CTranslate2 writes no sizes, so there nothing is checked.
    """
    own = json.loads((model / "config.json").read_text())
    for peer, entries in peers.items():
        for key, place in entries.items():
            file = place / "config.json"
            converted = json.loads(file.read_text()) if file.is_file() else {}
            for name in (size for size in MODEL_SIZES if size in own and size in converted):
                if own[name] != converted[name]:
                    raise SystemExit(
                        f"{peer}.{key}={place}: {name} is {converted[name]}, and {own[name]} in {model}: convert that model, "
                        "or leave the peer out"
                    )


def absent(peers: Peers) -> list[str]:
    """The peers that are not installed, as far as the file tells; transformers always is."""
    return [peer for peer in PEER_KEYS if peer not in peers and peer != "transformers"]


def lines(measurement: str, settings: Settings) -> list[Line]:
    """The rows of one measurement, in the order in which they are run; the limit first."""
    limit = Line("limit", "limit", "", _script(None, "limits", str(settings.model), str(settings.batch)))
    own = _own(measurement, settings)
    return [limit, *own, *(_peers(measurement, settings) if measurement in WORKLOADS_OF_ALL else [])]


def _script(python: Path | None, name: str, *arguments: str) -> tuple[str, ...]:
    return (str(python or sys.executable), "-m", f"benchmarks.{name}", *arguments)


def _workload(measurement: str, settings: Settings) -> tuple[str, str]:
    workload = "uniform" if measurement == "decode" else measurement
    return workload, str(settings.requests or REQUESTS[workload])


def _own(measurement: str, settings: Settings) -> list[Line]:
    """Our own lines. A prompt is read alone in `prefill`, so that its time is its own."""
    batch = 1 if measurement == "prefill" else settings.batch
    script = "phases" if measurement == "decode" else "ours"
    shared = (str(settings.model), *_workload(measurement, settings), str(batch))
    made = []
    for precision in PRECISIONS:
        words = _script(None, script, *shared, *(["--int8"] if precision == "int8" else []))
        name = f"promptmill {precision}"
        if measurement in WITH_AND_WITHOUT:
            made.append(Line(name, "promptmill", precision, (*words, "--prefix-caching", "off")))
            name, words = f"{name}, prefix caching", (*words, "--prefix-caching", "on")
        made.append(Line(name, "promptmill", precision, words))
        for dtype in CACHES.get(measurement, ()) if precision == "int8" else ():
            cache = ("--kv-cache-dtype", dtype)
            made.append(Line(f"{name}, cache in {dtype}", "promptmill", precision, (*words, *cache)))
    return made


def _peers(workload: str, settings: Settings) -> list[Line]:
    """The peers' lines, of those that are there."""
    peers, requests = settings.peers, _workload(workload, settings)
    shared, batch = (str(settings.model), *requests), str(settings.batch)
    python = peers.get("transformers", {}).get("python")
    size = str(min(TRANSFORMERS_BATCH[workload], settings.batch))
    words = _script(python, "peers.transformers_generate", *shared, size)
    free = ", free tokens" if answers(workload).choice else ""  # it has no structured output
    made = [Line(f"transformers `generate`, batch {size}{free}", "transformers", "float32", words)]
    if "vllm" in peers:
        words = _script(peers["vllm"]["python"], "peers.vllm_cpu", *shared, batch)
        made.append(Line("vLLM, compiled", "vllm", "float32", words))
    for name, (precision, properties) in OPENVINO_SETTINGS.items():
        if precision in peers.get("openvino", {}):
            place = (str(peers["openvino"][precision]), *requests, batch, *properties)
            words = _script(peers["openvino"]["python"], "peers.openvino_genai", *place)
            made.append(Line(name, "openvino", precision, words))
    if workload == "uniform" and "model" in peers.get("ctranslate2", {}):
        for precision, kind in (("float32", "float32"), ("int8", "int8_float32")):
            place = (str(peers["ctranslate2"]["model"]), *requests, batch, "--compute-type", kind)
            words = _script(peers["ctranslate2"]["python"], "peers.ctranslate2", *place)
            made.append(Line(f"CTranslate2 {precision}", "ctranslate2", precision, words))
    return made
