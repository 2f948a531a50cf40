"""Finds a model's files on the hub, in its cache or in a directory, checks that they are safe, and hashes their content.

It reads no weights into memory and does not import torch, because the driver uses it before any replica starts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.engine.config import EngineConfig, ModelConfig
from pipeline.engine.model.architecture import check_architecture, window
from pipeline.engine.model.chat import MORE
from pipeline.engine.model.files.digests import digests
from pipeline.engine.model.files.facts import ADAPTER, CONFIG, GENERATION, INDEX, TOKENIZER, read_facts
from pipeline.engine.model.files.shape import check_sizes
from pipeline.errors import ModelRefused
from pipeline.wording import one_line

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "spiece.model", "chat_template.jinja",
)  # fmt: skip
ADAPTER_WEIGHTS = "adapter_model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
UNKNOWN_CONTEXT = 2048
"""Context length assumed if a model's configuration does not say."""
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
_UNMERGED = frozenset({
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE", "ADAPTION_PROMPT", "XLORA",
})  # fmt: skip
"""PEFT types that add tokens or layers instead of changing weights."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a model's files are on this machine.

    Attributes:
        directory: The model's folder.
        tokenizer: The tokenizer's folder.
        adapter: The adapter's folder, or None.
        config: The content of `config.json`.
    """

    directory: Path
    tokenizer: Path
    adapter: Path | None
    config: dict[str, Any]

    @property
    def text(self) -> dict[str, Any]:
        """The part of the configuration about the language model; in multimodal models it is a section of its own."""
        return {**self.config, **(self.config.get("text_config") or {})}

    @property
    def vocab_size(self) -> int | None:
        """Number of tokens in the vocabulary; None if the configuration does not say."""
        size = self.text.get("vocab_size")
        return None if size is None else int(size)

    @property
    def context_length(self) -> int | None:
        """The longest sequence that the model supports, in tokens; None if the configuration does not say."""
        return None if self._context_key is None else int(self.text[self._context_key])

    @property
    def context_source(self) -> str:
        """The file and key of the context length, for messages."""
        return f"{self.directory / 'config.json'}: {self._context_key}={self.context_length}"

    @property
    def _context_key(self) -> str | None:
        keys = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
        return next((key for key in keys if isinstance(self.text.get(key), int)), None)

    @property
    def dtype(self) -> str:
        """The dtype in which the weights were saved, according to the configuration."""
        return str(self.config.get("dtype") or self.config.get("torch_dtype") or "float32")

    @property
    def weight_bytes(self) -> int:
        """Size of the files that transformers reads the weights from; the folder may hold them in another form, too."""
        files = list(self.directory.glob("*.safetensors"))
        whole, index = self.directory / "model.safetensors", self.directory / INDEX_FILE
        if whole in files:
            files = [whole]
        elif index.is_file() and (shards := read_facts(index, INDEX).get("weight_map")):
            files = [file for file in files if file.name in shards.values()]
        return sum(file.stat().st_size for file in files)

    def gpu_dtype(self, *, bfloat16: bool) -> str:
        """The type that `model.dtype=auto` is on a GPU: the checkpoint's own, if it has 16 bits.

        float32 takes a multiple of the time there, and a checkpoint that names no type counts as float32.

        Args:
            bfloat16: Whether the GPU multiplies bfloat16; otherwise float16 takes its place.
        """
        return self.dtype if self.dtype in ("bfloat16", "float16") else "bfloat16" if bfloat16 else "float16"

    def content(self, *, fresh: bool = False) -> dict[str, str]:
        """Return file name → SHA-256 of everything that decides what the model computes and how text becomes tokens.

        Args:
            fresh: Read every file, also one whose digest is remembered.
        """
        files = {f"model/{p.name}": p for p in _model_files(self.directory)}
        files |= {f"tokenizer/{n}": self.tokenizer / n for n in TOKENIZER_FILES if (self.tokenizer / n).is_file()}
        files |= {f"tokenizer/{MORE}/{p.name}": p for p in sorted((self.tokenizer / MORE).glob("*.jinja"))}
        if self.adapter is not None:
            files |= {f"adapter/{p.name}": p for p in _model_files(self.adapter, "adapter_config.json")}
        return dict(zip(files, digests(list(files.values()), fresh=fresh), strict=True))


def model_len(checkpoint: Checkpoint, config: EngineConfig) -> int:
    """Return the longest prompt plus generation in tokens: the model's context, or `engine.max_model_len` if that is less.

    Raises:
        ModelRefused: If `engine.max_model_len` exceeds the model's context, or the length its sliding window.
    """
    context = checkpoint.context_length
    if context is not None and (config.max_model_len or 0) > context:
        raise ModelRefused(
            f"engine.max_model_len={config.max_model_len}: the model was made for {context} tokens at most"
        )
    longest = config.max_model_len or context or UNKNOWN_CONTEXT
    seen = window(checkpoint.text)
    if seen is not None and longest > seen:
        kind = checkpoint.config.get("model_type", "unknown")
        raise ModelRefused(
            f"{checkpoint.directory}: {kind} attends through a sliding window, and only full attention is served; its "
            f"attention is full up to engine.max_model_len={seen}"
        )
    return longest


def resolve(config: ModelConfig) -> Checkpoint:
    """Find a model's files, downloading what is missing when `path` is a hub id, and check that they can be used.

    Raises:
        ModelRefused: If the model, its revision or tokenizer is missing, if its weights are not safetensors, or if it needs
            code of its own or a kind of layer that the engine does not serve.
    """
    directory = _locate(config.path, config.revision, "model.path")
    tokenizer = directory if config.tokenizer is None else _locate(config.tokenizer, None, "model.tokenizer")
    adapter = None if config.adapter is None else _locate(config.adapter, None, "model.adapter")
    if (directory / "adapter_config.json").is_file():
        raise ModelRefused(
            f"model.path={config.path}: is a PEFT adapter: name its base model with model.path, and this with model.adapter"
        )
    try:
        facts = read_facts(directory / "config.json", CONFIG)
    except FileNotFoundError:
        raise ModelRefused(f"{config.path}: has no config.json, so it is not a transformers model") from None
    check_architecture(facts, config.path)
    for path, rules in (
        (directory / "generation_config.json", GENERATION), (tokenizer / "tokenizer_config.json", TOKENIZER),
        (tokenizer / "special_tokens_map.json", {}), (directory / INDEX_FILE, INDEX),
    ):  # fmt: skip
        if path.is_file():
            read_facts(path, rules)
    for folder in (directory, adapter):
        if folder is not None and not list(folder.glob("*.safetensors")):
            others = sorted(
                p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"}
            )
            has = f"only {others[0]}, which can run code when it is loaded" if others else "no weights"
            raise ModelRefused(
                f"{folder}: has {has}; convert it to safetensors (save_pretrained writes that) and try again"
            )
    check_sizes(directory, facts)
    if adapter is not None:
        _check_adapter(adapter)
    if not any(
        (tokenizer / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
    ):
        raise ModelRefused(f"{tokenizer}: has no tokenizer; name one with model.tokenizer")
    return Checkpoint(directory, tokenizer, adapter, facts)


def _locate(path: str, revision: str | None, key: str) -> Path:
    """Return the folder of a local directory or hub id."""
    local = Path(path).expanduser()
    if local.is_dir():
        if revision is not None:
            raise ModelRefused(
                f"model.revision={revision}: {path} is a directory, which has no revisions; leave it out"
            )
        return local
    if (
        local.exists()
        or path.startswith((".", "/", "~"))
        or path.count("/") > 1
        or ("/" in path and local.parent.is_dir())
    ):
        raise ModelRefused(f"{key}={path}: there is no such directory: no folder {path} here" + _beside(local))
    # Imported here: a local directory needs no hub, and the import takes a while.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=_WANTED))
    except HFValidationError:
        raise ModelRefused(f"{key}={path}: neither a directory nor a hub id such as openai-community/gpt2") from None
    except LocalEntryNotFoundError:
        at = f" at revision {revision}" if revision else ""
        raise ModelRefused(
            f"{key}={path}: there is no folder {path} here, the hub cannot be reached, and its cache does not hold "
            f"this model{at}; go online once, or give a directory"
        ) from None
    except HfHubHTTPError as error:
        what = f"revision {revision}" if type(error).__name__ == "RevisionNotFoundError" else "such a model"
        raise ModelRefused(
            f"{key}={path}: there is no folder {path} here, and the hub has no {what}, or it needs a token (HF_TOKEN)"
        ) from None
    except OSError as error:
        raise ModelRefused(f"{key}={path}: cannot be fetched from the hub: {one_line(error)}") from None


def _beside(folder: Path) -> str:
    """Return the end of a message that names the folders beside a missing one."""
    if folder.exists():
        return ": it is a file"
    try:
        names = sorted(p.name for p in folder.parent.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:
        return ""
    return f"; {folder.parent} has {', '.join(names[:8])}{', …' * (len(names) > 8)}" if names else ""


def _check_adapter(folder: Path) -> None:
    """Refuse an adapter that cannot be merged into the model's weights."""
    try:
        facts = read_facts(folder / "adapter_config.json", ADAPTER)
    except FileNotFoundError:
        raise ModelRefused(f"{folder}: has no adapter_config.json, so it is not a PEFT adapter") from None
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelRefused(f"{folder}: has no {ADAPTER_WEIGHTS}, so it is not a PEFT adapter")
    kind = facts.get("peft_type")
    if kind is None or kind in _UNMERGED:
        what = "has no peft_type" if kind is None else f"peft_type={kind}: adds no weights to those of the model"
        raise ModelRefused(
            f"{folder / 'adapter_config.json'}: {what}; only adapters that can be merged, such as LoRA, are served"
        )


def _model_files(folder: Path, config: str = "config.json") -> Iterable[Path]:
    names = [config, "generation_config.json", *sorted(p.name for p in folder.glob("*.safetensors"))]
    return [folder / n for n in names if (folder / n).is_file()]
