"""Loads weights from safetensors into a model that is ready to run, with its batch-dependent parts replaced."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from pipeline.engine.config import DTYPES, ModelConfig
from pipeline.engine.layers.attention import IMPLEMENTATION, choose
from pipeline.engine.layers.linear import ROW_UNITS
from pipeline.engine.libraries import undrawn
from pipeline.engine.model.adapter import merge_adapter
from pipeline.engine.model.architecture import INSTEAD
from pipeline.engine.model.exchange import exchange
from pipeline.engine.model.files.checkpoint import UNKNOWN_CONTEXT, Checkpoint
from pipeline.engine.model.probe import check_attention
from pipeline.engine.model.whole import check_whole
from pipeline.errors import ModelRefused
from pipeline.stages import doing

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model with the facts that the engine needs.

    Attributes:
        model: The transformers model.
        device: The device that it is on.
        dtype: The type of its activations.
        kv_dtype: The type of the KV cache.
        layers: Number of layers that keep keys and values.
        kv_heads: Key and value heads per layer.
        head_dim: Elements per head.
        vocab_size: Logits per position.
        context_length: Positions that it supports.
        eos_token_ids: Ids that end a text.
        attention: Name of the attention kernel; empty for a model with unchanged layers.
        kernels: Name of a linear kernel → number of linears that use it; empty for a model with unchanged layers.
        batch_invariant: Whether all kernels passed the check that a row's bits do not depend on its batch.
    """

    model: PreTrainedModel
    device: torch.device
    dtype: torch.dtype
    kv_dtype: torch.dtype
    layers: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    eos_token_ids: frozenset[int]
    attention: str = ""
    kernels: dict[str, int] = field(default_factory=dict)
    batch_invariant: bool = True

    @property
    def row_unit(self) -> int:
        """The number of rows that the linears compute at least; multiples of it waste no work."""
        return max((ROW_UNITS.get(name, 1) for name in self.kernels), default=1)


def load_model(
    checkpoint: Checkpoint, config: ModelConfig, *, device: str = "cpu", max_len: int | None = None, plain: bool = False,
    deterministic: bool = True,
) -> LoadedModel:  # fmt: skip
    """Load a checkpoint for inference.

    Args:
        checkpoint: The model's files.
        config: Dtype and quantisation.
        device: `cpu` or `cuda`.
        max_len: Longest sequence that will be run; None: the model's context.
        plain: Keep transformers' own attention and linears, for the static engine.
        deterministic: Give a row the same bits in every batch, even where that is slower.

    Raises:
        ModelRefused: If transformers does not know the architecture, or the files do not fit it.
    """
    # The user of a job wants neither a progress bar per model nor advice for callers of `generate`.
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    where = torch.device(device)
    if where.type == "cuda" and config.quantization == "int8":
        raise ModelRefused(
            "model.quantization=int8: is served on processors only; on a GPU, model.kv_cache_dtype=int8 is what saves time"
        )
    if where.type == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda is not None
        why = "see what nvidia-smi says" if built else "this build has no CUDA; install one that has"
        raise ModelRefused(
            f"torch {torch.__version__} sees no GPU here: {why}, or leave out cluster.gpus_per_replica to run on processors"
        )
    set_precision(tf32=config.tf32)
    dtype = config.dtype
    if dtype == "auto":
        dtype = "float32" if where.type == "cpu" else checkpoint.gpu_dtype(bfloat16=_multiplies_bfloat16())
    elif dtype == "bfloat16" and where.type == "cuda" and not _multiplies_bfloat16():
        logger.warning(
            "model.dtype=bfloat16 is emulated on this GPU, which is slow; set model.dtype=float16 in a new output"
        )
    # for a GPU as it was saved, so that the file's own memory is all that it takes
    read_as = checkpoint.dtype if where.type == "cuda" and checkpoint.dtype in DTYPES else dtype
    try:
        with doing(f"reading {checkpoint.directory.name}"), undrawn():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                checkpoint.directory, dtype=getattr(torch, read_as),
                attn_implementation="sdpa" if plain else IMPLEMENTATION,
                use_safetensors=True, local_files_only=True, trust_remote_code=False, output_loading_info=True,
            )  # fmt: skip
    except MemoryError:
        raise
    except Exception as error:  # of whatever kind the model's code and the configuration's checks raise
        if error.args == (IMPLEMENTATION,):  # looked up among a model's own, fixed ones
            raise _fixed_attention(checkpoint) from None
        if "Unrecognized configuration class" in str(error):  # followed by some thousand characters of names
            kind = checkpoint.config.get("model_type", "unknown")
            raise ModelRefused(
                f"{checkpoint.directory}: transformers has no causal language model {kind}; {INSTEAD}"
            ) from None
        raise ModelRefused(f"{checkpoint.directory}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    model: PreTrainedModel = loaded[0]
    check_whole(checkpoint.directory, loaded[1])
    if not getattr(model, "_supports_attention_backend", False):
        raise _fixed_attention(checkpoint)
    if checkpoint.adapter is not None:
        with doing(f"merging the adapter {checkpoint.adapter.name}"):
            model = merge_adapter(model, checkpoint.adapter)
    if where.type == "cuda":
        move(model.requires_grad_(False), where, None if read_as == dtype else getattr(torch, dtype))
    return make_ready(
        model, checkpoint, config, device=device, max_len=max_len, plain=plain, deterministic=deterministic
    )


def make_ready(
    model: PreTrainedModel, checkpoint: Checkpoint, config: ModelConfig, *, device: str = "cpu",
    max_len: int | None = None, plain: bool = False, deterministic: bool = True,
) -> LoadedModel:  # fmt: skip
    """Make a transformers model that has its weights ready to run; see `load_model`."""
    where = torch.device(device)
    _check_output(model, checkpoint)
    model.eval().requires_grad_(False)  # type: ignore[no-untyped-call]
    text = model.config.get_text_config()
    context = checkpoint.context_length or UNKNOWN_CONTEXT
    heads, kv_heads, head_dim = _heads(text, checkpoint)
    dtype_of = model.dtype
    kv_dtype = dtype_of if plain or config.kv_cache_dtype == "auto" else getattr(torch, config.kv_cache_dtype)
    kernels: dict[str, int] = {}
    attention, exact = "", False
    if not plain:
        try:
            kernels, linears = exchange(
                model, max_len or context, int8=config.quantization == "int8", deterministic=deterministic
            )
        except (TypeError, ValueError, AttributeError, LookupError) as error:  # a rotary embedding of another interface
            raise ModelRefused(
                f"{checkpoint.directory}: {model.config.model_type} is not served: its rotary embedding or another part cannot "
                f"be replaced: {' '.join(str(error).split())[:200]}; {INSTEAD}"
            ) from error
        with doing("checking the attention"):
            check_attention(
                model, layers=text.num_hidden_layers, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
                max_len=max_len or context,
            )  # fmt: skip
            attention, rows_apart = choose(heads, kv_heads, head_dim, dtype_of, kv_dtype, where)
        exact = linears and rows_apart
        if not exact and (deterministic or where.type == "cpu"):
            logger.warning(
                "not every matrix product of this model is batch-invariant here: output bytes may depend on the batch"
            )
        if where.type == "cpu":
            with doing("copying what is not packed"):
                _let_go_of_file(model)
    return LoadedModel(
        model=model, device=where, dtype=dtype_of, kv_dtype=kv_dtype, layers=text.num_hidden_layers, kv_heads=kv_heads,
        head_dim=head_dim, vocab_size=text.vocab_size, context_length=context, eos_token_ids=_eos_token_ids(model),
        attention=attention, kernels=kernels, batch_invariant=exact,
    )  # fmt: skip


def move(model: PreTrainedModel, where: torch.device, dtype: torch.dtype | None) -> None:
    """Move a model to a device, one weight after the other, and change their type there, if one is given.

    Until then a weight is a part of the mapped file, so the host never holds the model a second time. As when transformers
    reads a model in another type, what the architecture wants in float32 stays so.
    """
    kept = {*(getattr(model, "_keep_in_fp32_modules_strict", None) or ())}
    if dtype == torch.float16:
        kept |= {*(getattr(model, "_keep_in_fp32_modules", None) or ())}
    for name, parameter in model.named_parameters():  # a tied one comes once
        parameter.data = parameter.data.to(where)
        if dtype is not None and parameter.is_floating_point() and not kept.intersection(name.split(".")):
            parameter.data = parameter.data.to(dtype)
    if dtype is not None:
        model.config.dtype = dtype
    model.to(where)  # type: ignore[arg-type]  # what is no weight, such as frequencies, which keep their type


def _multiplies_bfloat16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def set_precision(*, tf32: bool) -> None:
    """Set the precision of matrix products on GPUs for this process.

    Products in 16 bits are summed in 32 bits throughout; torch's default reduces partial sums in 16 bits.
    """
    matmul = torch.backends.cuda.matmul
    matmul.fp32_precision = "tf32" if tf32 else "ieee"
    matmul.allow_bf16_reduced_precision_reduction = False
    matmul.allow_fp16_reduced_precision_reduction = False


def _heads(text: Any, checkpoint: Checkpoint) -> tuple[int, int, int]:
    """Return (query heads, key and value heads, elements per head).

    Raises:
        ModelRefused: If the configuration does not say, for example because layers differ.
    """
    try:
        heads = int(text.num_attention_heads)
        kv_heads = int(getattr(text, "num_key_value_heads", None) or heads)
        return heads, kv_heads, int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    except Exception as error:  # a configuration may have an exception of its own for it
        kind = checkpoint.config.get("model_type", "unknown")
        raise ModelRefused(
            f"{checkpoint.directory}: {kind} does not have the same attention heads in every layer, which is not served; "
            f"{INSTEAD}"
        ) from error


def _fixed_attention(checkpoint: Checkpoint) -> ModelRefused:
    kind = checkpoint.config.get("model_type", "unknown")
    return ModelRefused(
        f"{checkpoint.directory}: {kind} does not let its attention be replaced, so it is not served; {INSTEAD}"
    )


def _let_go_of_file(model: PreTrainedModel) -> None:
    """Copy the weights that were not packed, so that the file can be unmapped: it would count as memory of this process."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def _eos_token_ids(model: PreTrainedModel) -> frozenset[int]:
    """Return the ids that end a text: from the generation settings, or else from the configuration."""
    ids = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = ids if ids is not None else getattr(model.config, "eos_token_id", None)
    return frozenset(() if ids is None else [ids] if isinstance(ids, int) else ids)


def _check_output(model: PreTrainedModel, checkpoint: Checkpoint) -> None:
    """Replace -inf in the output layer's bias, which masks the padding of the vocabulary, by a finite number.

    The probability of those tokens is still 0, and any non-finite logit is then a defect of the weights.

    Raises:
        ModelRefused: If its weight has non-finite elements, which make non-finite logits.
    """
    output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    bias, weight = (getattr(output, name, None) for name in ("bias", "weight"))
    if isinstance(bias, torch.Tensor):
        # the logits of a whole vocabulary of them have a finite sum, by which a row is known to be finite
        bias.data.masked_fill_(bias.data == -torch.inf, max(torch.finfo(bias.dtype).min / 2, -1e30))
    # the least and the largest element are NaN if any is; a sum in float64 would take a copy of the weight
    if isinstance(weight, torch.Tensor) and not all(end.isfinite() for end in weight.data.aminmax()):
        row = int((~weight.data.isfinite()).any(-1).nonzero()[0])
        raise ModelRefused(
            f"{checkpoint.directory}: the output layer's weight has infinities or NaN, first for token {row}, so that no logit "
            "of it is a number; a token is masked by the layer's bias, or by sampling.logit_bias"
        )
