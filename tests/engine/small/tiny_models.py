"""Tiny models, engines around them, and the oracles: `generate` in float32 and one whole forward pass in float64."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer as Rust
from tokenizers import decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from pipeline.engine import native
from pipeline.engine.base import Engine
from pipeline.engine.config import ModelConfig, StatsConfig
from pipeline.engine.continuous import ContinuousEngine
from pipeline.engine.model.files.checkpoint import Checkpoint, resolve
from pipeline.engine.model.load import LoadedModel, load_model
from pipeline.engine.model.tokenizer import Tokenizer, load_tokenizer
from pipeline.engine.static import StaticEngine
from pipeline.engine.steps.runner import ModelRunner
from pipeline.types import Completion, Request, SamplingParams

CONTEXT = 128
END = 0
"""Id of the end token of every tiny model."""
WORDS = [" the", " cat", " stop", "STOP", "ab", "\n\n", " 🚂", "é", "京"]
PARTIAL = [b" \xf0\x9f", b"b\xf0", b"\x9a\x82", b"\n\xe4", b"\xba\xac"]
"""Pieces that end or begin within a character, as the vocabularies of real byte-level tokenizers have them."""
DEMO = Path(__file__).parents[3] / "examples" / "demo-model"


def _spelled(piece: bytes) -> str:
    """A byte string in the alphabet that byte-level tokenizers spell bytes with."""
    alphabet = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in alphabet]
    letters = {b: chr(b) for b in alphabet} | {b: chr(256 + i) for i, b in enumerate(others)}
    return "".join(letters[b] for b in piece)


@functools.cache
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte, some words, and some pieces that cut a character; 0 is the end token."""
    pieces = [bytes([b]) for b in range(256)]
    merges: list[tuple[bytes, bytes]] = []
    for word in [*(w.encode() for w in WORDS), *PARTIAL]:
        for i in range(2, len(word) + 1):
            if word[:i] not in pieces:
                pieces.append(word[:i])
                merges.append((word[: i - 1], word[i - 1 : i]))
    vocabulary = {"<|end|>": END} | {_spelled(p): i for i, p in enumerate(pieces, 1)}
    spelled = [(_spelled(a), _spelled(b)) for a, b in merges]
    rust = Rust(models.BPE(vocab=vocabulary, merges=spelled))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    rust.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=rust, bos_token="<|end|>", eos_token="<|end|>")


def piece(data: bytes) -> int:
    """Id of a byte string that is one token."""
    found = byte_tokenizer().convert_tokens_to_ids(_spelled(data))
    assert isinstance(found, int)
    return found


def _gpt2(vocab: int = 320, inner: int = 256, tie: int = 1, layers: int = 2) -> GPT2Config:
    return GPT2Config(
        vocab_size=vocab, n_positions=CONTEXT, n_embd=64, n_layer=layers, n_head=4, n_inner=inner, initializer_range=0.2,
        bos_token_id=END, eos_token_id=END, tie_word_embeddings=bool(tie),
    )  # fmt: skip


def _llama(kind: type[LlamaConfig] | type[Qwen2Config] = LlamaConfig, vocab: int = 320, inner: int = 256) -> Any:
    return kind(
        vocab_size=vocab, max_position_embeddings=CONTEXT, hidden_size=64, intermediate_size=inner, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2, bos_token_id=END, eos_token_id=END,
    )  # fmt: skip


def _neox() -> GPTNeoXConfig:
    rotary: dict[str, Any] = {"rotary_pct": 0.25}
    return GPTNeoXConfig(
        vocab_size=320, max_position_embeddings=CONTEXT, hidden_size=64, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, initializer_range=0.2, bos_token_id=END, eos_token_id=END, **rotary,
    )  # fmt: skip


def _opt() -> OPTConfig:
    return OPTConfig(
        vocab_size=320, max_position_embeddings=CONTEXT, hidden_size=64, word_embed_proj_dim=64, ffn_dim=256,
        num_hidden_layers=2, num_attention_heads=4, init_std=0.2, bos_token_id=END, eos_token_id=END, pad_token_id=1,
    )  # fmt: skip


FAMILIES: dict[str, Any] = {
    "gpt2": _gpt2, "llama": _llama, "qwen2": functools.partial(_llama, Qwen2Config), "gpt_neox": _neox, "opt": _opt,
}  # fmt: skip


def write_model(folder: Path, config: Any, seed: int) -> None:
    """Save a model with random weights, biases included, and the byte tokenizer beside it."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


class Tiny:
    """A model in a folder: loaded for our engines, and for the oracles."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cached_property
    def checkpoint(self) -> Checkpoint:
        return resolve(ModelConfig(path=str(self.folder)))

    @functools.cached_property
    def vocab_size(self) -> int:
        return int(self.checkpoint.config["vocab_size"])

    @functools.cache  # noqa: B019 - as long-lived as the session
    def loaded(
        self, quantization: str = "none", plain: bool = False, kv: str = "auto", dtype: str = "float32"
    ) -> LoadedModel:
        config = ModelConfig(path=str(self.folder), dtype=dtype, quantization=quantization, kv_cache_dtype=kv)
        return load_model(self.checkpoint, config, plain=plain)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.folder, self.vocab_size)

    def engine(
        self, slots: int = 4, *, max_len: int = CONTEXT, tokens: int = 256, quantization: str = "none",
        kv: str = "auto", dtype: str = "float32", blocks: int | None = None, share: bool = True, ahead: bool = False,
        **stats: Any,
    ) -> ContinuousEngine:  # fmt: skip
        runner = ModelRunner(self.loaded(quantization, kv=kv, dtype=dtype), slots, max_len, blocks)
        return ContinuousEngine(runner, self.tokenizer, StatsConfig(**stats), tokens, prefix_caching=share, ahead=ahead)

    def static(self, batch: int = 4, *, max_len: int = CONTEXT, **stats: Any) -> StaticEngine:
        return StaticEngine(self.loaded(plain=True), self.tokenizer, StatsConfig(**stats), batch, max_len)

    @functools.cached_property
    def oracle(self) -> Any:
        """transformers' own model in float32."""
        return AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()

    @functools.cached_property
    def _exact(self) -> Any:
        loaded = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float64, attn_implementation="eager")
        return loaded.eval()

    @torch.inference_mode()
    def exact_logits(self, ids: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Float64 logits [T, V] of a whole sequence in one pass."""
        logits = self._exact(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        assert logits.dtype == torch.float64
        return logits.numpy()

    @torch.inference_mode()
    def generate(self, prompt: Sequence[int], new: int, **options: Any) -> tuple[list[int], list[float]]:
        """Greedy ids by transformers' `generate`, batch 1, and the gap of the two best scores at each."""
        ids = torch.tensor([list(prompt)])
        options = {"eos_token_id": None, "pad_token_id": END, **options}
        out = self.oracle.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, output_scores=True,
            return_dict_in_generate=True, **options,
        )  # fmt: skip
        best = [score[0].topk(2).values for score in out.scores]
        return out.sequences[0, len(prompt) :].tolist(), [float(a - b) for a, b in best]


@contextlib.contextmanager
def kernels_of(level: str) -> Iterator[None]:
    """The kernels of a level that this processor can run."""
    native.use(f"native-{level}")
    try:
        yield
    finally:
        native.use("auto")


OLDER = [level for level in native.levels()[1:] if (native.FOLDER / f"_native-{level}.so").exists()]
"""Levels below this processor's own."""


@contextlib.contextmanager
def without_kernels() -> Iterator[None]:
    """As where promptmill was installed without a C compiler. A model keeps what it was loaded with."""
    before, native.FOLDER = native.FOLDER, Path("/nowhere")
    native._found.cache_clear()
    try:
        yield
    finally:
        native.FOLDER = before
        native._found.cache_clear()


def request(name: str, prompt: Sequence[int], sample: int = 0, **sampling: Any) -> Request:
    """Make a request; greedy unless a temperature is given."""
    return Request(name, sample, tuple(prompt), SamplingParams(**{"temperature": 0.0, **sampling}))


def drain(engine: Engine, requests: Sequence[Request] = ()) -> dict[tuple[str, int], Completion]:
    """Run an engine until nothing is left."""
    engine.add(list(requests))
    done: dict[tuple[str, int], Completion] = {}
    while any(engine.load()):
        for completion in engine.step():
            name = (completion.request.row_id, completion.request.sample_index)
            assert name not in done
            done[name] = completion
    assert {(r.row_id, r.sample_index) for r in requests} <= done.keys()
    return done


def bits(completion: Completion, *, prompt: bool = False) -> dict[str, Any]:
    """Everything of a completion, arrays as bytes."""
    arrays = dict(completion.statistics)
    if prompt:
        arrays["prompt_token_logprobs"] = completion.prompt_token_logprobs
    return {
        "token_ids": completion.token_ids, "text": completion.text, "reason": completion.finish_reason,
        "stop_reason": completion.stop_reason, "error": completion.error,
        **{name: (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()},
    }  # fmt: skip


def random_prompts(seed: int, lengths: Sequence[int], vocab: int = 320) -> list[list[int]]:
    """Random prompts without the end token."""
    rng = np.random.default_rng(seed)
    return [rng.integers(1, vocab, n).tolist() for n in lengths]
