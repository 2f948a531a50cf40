"""The options of the model, the engine and the statistics. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.engine.registry import BACKENDS
from pipeline.statistics import STATISTICS
from pipeline.types import require

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "int8")
KV_DTYPES = ("auto", "bfloat16", "int8")
_LEVELS = ("v3", "v3-vnni", "v4", "v4-vnni", "v4-bf16", "v4-amx", "dotprod", "generic")
KERNELS = ("auto", "none", *(f"native-{level}" for level in _LEVELS))
GPU_KERNELS = ("auto", "off")


@dataclass(kw_only=True)
class ModelConfig:
    """Which causal language model to run.

    `path` is a Hugging Face hub id or a directory; so is `tokenizer` (None: the model's own). `dtype=auto` is
    float32 on a CPU; on a GPU it is the checkpoint's own type, if that has 16 bits, and else bfloat16 (float16 on GPUs
    that only emulate bfloat16). An output that was begun keeps its type. `kv_cache_dtype=auto` keeps keys and values in the
    model's type; of a float32 model, `bfloat16` halves the cache and `int8` quarters it. `adapter` is a PEFT (LoRA) directory
    that is merged at load. `tf32` lets a GPU multiply float32 with ten bits of mantissa, which is several times as fast.
    """

    path: str = field(default="openai-community/gpt2-large", metadata={"help": "a Hugging Face hub id, or a directory"})
    revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of the hub repository"})
    dtype: str = field(
        default="auto",
        metadata={
            "help": "auto, float32, bfloat16 or float16; auto is float32 on a CPU; on a GPU the checkpoint's own, or bfloat16"
        },
    )
    quantization: str = field(default="none", metadata={"help": "none or int8"})
    kv_cache_dtype: str = field(
        default="auto",
        metadata={
            "help": "auto is the model's own type; bfloat16 halves the cache of a float32 model, int8 quarters it"
        },
    )
    tokenizer: str | None = field(default=None, metadata={"help": "a hub id or a directory; null is the model's own"})
    adapter: str | None = field(
        default=None, metadata={"help": "a PEFT (LoRA) directory, merged when the model is loaded"}
    )
    tf32: bool = field(
        default=False, metadata={"help": "a GPU multiplies float32 with ten bits of mantissa, several times as fast"}
    )

    def __post_init__(self) -> None:
        """Check every field."""
        require(bool(self.path.strip()), "path", self.path, "a hub id such as openai-community/gpt2, or a directory")
        require(self.dtype in DTYPES, "dtype", self.dtype, "one of " + ", ".join(DTYPES))
        require(
            self.quantization in QUANTIZATIONS, "quantization", self.quantization, "one of " + ", ".join(QUANTIZATIONS)
        )
        require(
            self.kv_cache_dtype in KV_DTYPES, "kv_cache_dtype", self.kv_cache_dtype, "one of " + ", ".join(KV_DTYPES)
        )


@dataclass(kw_only=True)
class EngineConfig:
    """How requests are batched.

    At most `max_num_seqs` sequences run at once, fewer if memory does not hold them; `auto`: as many as make it faster.
    `max_num_batched_tokens` bounds a step's tokens, so that a long prompt does not stall the sequences that are generating
    (None: 256 on a CPU; on a GPU, 512 and one per sequence). `prefix_caching` computes the common beginning of prompts only
    once. These options change the speed, and no output byte. `max_model_len` limits prompt plus generation (None: the
    model's context length). `deterministic` gives a row the same bits in every batch; without it, a GPU's library chooses
    kernels by the number of rows. A CPU is always deterministic. `kernels` chooses the compiled kernels of a
    CPU: `auto` is the best level that it supports, `none` is torch's own operations, and `native-v3` (AVX2),
    `native-v3-vnni`, `native-v4` (AVX-512), `native-v4-vnni`, `native-v4-bf16`, `native-v4-amx`, `native-dotprod` (ARM) or
    `native-generic` is that level. `gpu_kernels` chooses those of a GPU, for attention, sampling and statistics: `auto` uses
    them where they pass their check, `off` leaves the work to torch's own operations.
    """

    name: str = field(default="continuous", metadata={"help": "continuous or static"})
    max_num_seqs: str = field(
        default="auto",
        metadata={"help": "most sequences in a batch: a number, or auto; fewer if memory does not hold them"},
    )
    max_model_len: int | None = field(
        default=None, metadata={"help": "limit of prompt plus generation, tokens; null is the model's context length"}
    )
    max_num_batched_tokens: int | None = field(
        default=None, metadata={"help": "most tokens per step; null is 256, on a GPU 512 and one per sequence"}
    )
    prefix_caching: bool = field(default=True, metadata={"help": "compute the common beginning of prompts only once"})
    deterministic: bool = field(
        default=True,
        metadata={
            "help": "the same bits for a row in every batch; false lets a GPU choose kernels by the batch's size"
        },
    )
    kernels: str = field(
        default="auto", metadata={"help": "compiled kernels: auto, none (torch does it), or a level: native-v3"}
    )
    gpu_kernels: str = field(
        default="auto",
        metadata={"help": "a GPU's kernels for attention and sampling: auto, or off (torch does it, slower)"},
    )

    def __post_init__(self) -> None:
        """Check every field."""
        require(self.kernels in KERNELS, "kernels", self.kernels, "one of " + ", ".join(KERNELS))
        require(self.gpu_kernels in GPU_KERNELS, "gpu_kernels", self.gpu_kernels, "one of " + ", ".join(GPU_KERNELS))
        require(self.name in BACKENDS, "name", self.name, "one of " + ", ".join(BACKENDS))
        wanted = str(self.max_num_seqs)
        counted = wanted.isascii() and wanted.isdigit() and 1 <= int(wanted[:5]) <= 4096
        require(counted or wanted == "auto", "max_num_seqs", self.max_num_seqs, "auto or from 1 to 4096")
        require(
            self.max_model_len is None or self.max_model_len >= 2,
            "max_model_len",
            self.max_model_len,
            "null or at least 2",
        )
        most = self.max_num_batched_tokens
        require(most is None or most >= 32, "max_num_batched_tokens", most, "null or at least 32")

    @property
    def sequences(self) -> int | None:
        """`max_num_seqs` as a number; None: auto."""
        return None if self.max_num_seqs == "auto" else int(self.max_num_seqs)


@dataclass(kw_only=True)
class StatsConfig:
    """The statistics that are written per generated token, all under the model's own distribution."""

    columns: list[str] = field(
        default_factory=lambda: [s.name for s in STATISTICS.values() if s.default],
        metadata={"help": "any of " + ", ".join(STATISTICS)},
    )
    top_logprobs: int = field(default=0, metadata={"help": "the k most likely tokens at every step; 0 is off"})
    prompt_logprobs: bool = field(default=False, metadata={"help": "log-probabilities of the prompt's tokens too"})

    def __post_init__(self) -> None:
        """Check every field."""
        unknown = [c for c in self.columns if c not in STATISTICS]
        require(not unknown, "columns", self.columns, "a list of " + ", ".join(STATISTICS))
        require(len(set(self.columns)) == len(self.columns), "columns", self.columns, "without repetition")
        require(0 <= self.top_logprobs <= 1000, "top_logprobs", self.top_logprobs, "from 0 (off) to 1000")
