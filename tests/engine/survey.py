"""Every causal language model of the installed transformers, tiny and random: served right, or refused in one line.

`python -m tests.engine.survey [MODEL_TYPE ...]` prints the table; `test_survey.py` asserts it. The oracle is transformers' own
forward pass over the whole sequence, in float64 and with eager attention.
"""

from __future__ import annotations

import inspect
import multiprocessing
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as quiet

from pipeline.engine.model.architecture import INSTEAD
from tests.engine.small.tiny_models import CONTEXT, END, byte_tokenizer

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "families.md"
TOLERANCE = 1e-5
"""Largest difference of a log-probability from the oracle's, relative to its size above 1."""
_LARGEST = 30_000_000
_SECONDS = 240
_PROMPT = (20, 33, 47, 61, 75, 89, 103, 117, 131, 145, 159, 173, 187)
_SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embed_dim", "dim", "embedding_size", "word_embed_proj_dim"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "decoder_ffn_dim", "encoder_ffn_dim",
                     "d_ff", "inner_dim", "intermediate_size_mlp", "shared_expert_intermediate_size",
                     "moe_intermediate_size", "expert_ffn_hidden_size", "mlp_dim", "dff"), 96),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "decoder_layers", "encoder_layers", "n_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "decoder_attention_heads", "encoder_attention_heads",
                     "n_heads"), 4),
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 320, "vocab_size_per_layer_input": 320, "kv_channels": 16,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len",
                     "context_length"), CONTEXT),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_layer"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "num_selected_experts", "top_k_experts", "moe_top_k"), 2),
    **dict.fromkeys(("n_group", "topk_group"), 1), "first_k_dense_replace": 1, "n_shared_experts": 1,
    "q_lora_rank": 32, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
    "qk_head_dim": 16, "hidden_size_per_layer_input": 16, "pad_token_id": 1, "bos_token_id": END, "eos_token_id": END,
    "is_decoder": True, "use_cache": True, "add_cross_attention": False, "state_size": 8, "time_step_rank": 8,
    "index_topk": 64, "index_n_heads": 2, "index_head_dim": 16, "num_nextn_predict_layers": 0,
    "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_num_heads": 4, "mamba_head_dim": 32,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "lru_width": 64, "partial_rotary_factor": None, "sliding_window": None, "tie_word_embeddings": None,
}  # fmt: skip
_ALTERNATIVES: tuple[dict[str, Any], ...] = (
    {}, {"num_key_value_heads": 4}, {"num_key_value_heads": 1}, {"head_dim": 32}, {"num_hidden_layers": 4},
    {"num_experts_per_tok": 1},
)  # fmt: skip
_OWN: dict[str, dict[str, Any]] = {
    "gptj": {"rotary_dim": 16}, "codegen": {"rotary_dim": 16}, "gpt_neo": {"attention_types": [[["global"], 2]]},
    "falcon_h1": {"mamba_d_ssm": 128},
    "reformer": {"axial_pos_embds_dim": [16, 48], "axial_pos_shape": [8, 16], "attn_layers": ["local", "local"]},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"}, "lfm2_moe": {"layer_types": ["full_attention", "conv"]},
    "gemma3n_text": {"num_kv_shared_layers": 0, "layer_types": ["full_attention"] * 2},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"]},
    "nemotron_h": {"layers_block_type": ["mamba", "attention"], "n_groups": 1, "mamba_num_heads": 4},
    "mamba2": {"num_heads": 4, "head_dim": 32, "n_groups": 1}, "longcat_flash": {"head_dim": 8, "zero_expert_num": 2},
    "cohere_compass_text": {
        "layer_types": ["full_attention"] * 2,
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}},
    },
    "dots3_note": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
}  # fmt: skip
"""What some model types need beside that."""
_KEPT = ("partial_rotary_factor", "sliding_window", "tie_word_embeddings")


@dataclass(frozen=True)
class Verdict:
    """What became of one model type: `right`, `wrong`, `refused`, `crash` or `not made` (no tiny configuration was found)."""

    kind: str
    outcome: str
    told: str


def kinds() -> list[str]:
    """The model types of transformers' causal language models."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _sized(cls: Any, changes: dict[str, Any]) -> Any:
    """A configuration of a class with small numbers for the parameters that it has."""
    accepted = inspect.signature(cls.__init__).parameters
    names = {*accepted, *getattr(cls, "__dataclass_fields__", {}), *getattr(cls, "attribute_map", {})}
    own = _OWN.get(getattr(cls, "model_type", ""), {})
    sizes = {**_SIZES, **changes, **own}
    names |= own.keys()
    return cls(**{name: value for name, value in sizes.items() if name in names and name not in _KEPT})


def configuration(kind: str) -> Any:
    """A tiny configuration of a model type whose model can be made.

    Raises:
        ValueError: If none was found.
    """
    why: Exception | None = None
    for changes in _ALTERNATIVES:
        try:
            config = _sized(CONFIG_MAPPING[kind], changes)
            for name in getattr(config, "sub_configs", {}):  # of a model that does more than text
                if isinstance(inner := getattr(config, name, None), PreTrainedConfig):
                    setattr(config, name, _sized(type(inner), changes))
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
            if sum(p.numel() for p in model.parameters()) > _LARGEST:
                raise ValueError("its sizes have other names")
            ids = torch.tensor([_PROMPT])
            with torch.inference_mode():
                _random(AutoModelForCausalLM.from_config(config)).eval()(input_ids=ids, use_cache=False)
        except Exception as error:  # of whatever kind a configuration or model raises
            why = error
        else:
            return config
    raise ValueError(" ".join(str(why).split())[:100])


def _random(model: Any) -> Any:
    draw = torch.Generator().manual_seed(7)
    for weight in model.parameters():
        scale = 0.1 if weight.ndim > 1 else 0.02
        noise = torch.randn(weight.shape, generator=draw) * scale
        weight.data.copy_(noise if weight.ndim > 1 else weight.data + noise)
    return model


def _served(kind: str, folder: Path) -> tuple[str, str]:
    from pipeline.engine.assembly import build_engine
    from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
    from pipeline.engine.model.files.checkpoint import resolve
    from pipeline.errors import ModelRefused
    from tests.engine.small.tiny_models import drain, request

    try:
        config = configuration(kind)
    except Exception as error:
        return _refused_by_its_configuration(kind) or ("not made", str(error))
    _random(AutoModelForCausalLM.from_config(config)).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    model = ModelConfig(path=str(folder))
    engine = EngineConfig(max_num_seqs="2", max_model_len=64)
    try:
        built = build_engine(resolve(model), model, engine, StatsConfig(), threads=1)
        made = drain(built.engine, [request("row", _PROMPT, max_tokens=20, ignore_eos=True)])["row", 0]
    except ModelRefused as refused:
        return "refused", str(refused).replace(str(folder), kind)
    if made.error is not None:
        return "crash", made.error.message
    logits = _logits(folder, [*_PROMPT, *made.token_ids])
    told = torch.from_numpy(made.statistics["token_logprobs"]).double()
    places = torch.arange(len(told)) + len(_PROMPT) - 1
    exact = logits.log_softmax(-1)[places, torch.tensor(made.token_ids)]
    off = float(((told - exact).abs() / exact.abs().clamp(min=1)).max())
    return ("right" if off <= TOLERANCE else "wrong"), f"{off:.1e}"


def _refused_by_its_configuration(kind: str) -> tuple[str, str] | None:
    """The verdict on a model type that is refused whatever its sizes; None where that takes a model."""
    from pipeline.engine.model.architecture import check_architecture
    from pipeline.errors import ModelRefused

    try:
        check_architecture(CONFIG_MAPPING[kind]().to_dict(), kind)
    except ModelRefused as refused:
        return "refused", str(refused)
    except Exception:  # no configuration of that type can be made without more
        return None
    return None


@torch.inference_mode()
def _logits(folder: Path, ids: Sequence[int]) -> torch.Tensor:
    """transformers' logits [T, V]: in float64, or in float32 where a mixture's product knows no other type."""
    for dtype in (torch.float64, torch.float32):
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
        try:
            return loaded(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()
        except RuntimeError:
            if dtype == torch.float32:
                raise
    raise AssertionError


def _child(kind: str, pipe: Any) -> None:
    warnings.simplefilter("ignore")
    quiet.disable_progress_bar()
    quiet.set_verbosity_error()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        try:
            pipe.send(_served(kind, Path(folder)))
        except BaseException as error:
            pipe.send(("crash", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"))


def survey(wanted: Sequence[str]) -> Iterator[Verdict]:
    """Try model types, each in a separate process."""
    context = multiprocessing.get_context("fork")
    for kind in wanted:
        mine, its = context.Pipe()
        child = context.Process(target=_child, args=(kind, its))
        child.start()
        its.close()
        try:
            outcome, told = mine.recv() if mine.poll(_SECONDS) else ("crash", f"nothing within {_SECONDS} s")
        except EOFError:
            outcome, told = "crash", "its process ended"
        child.kill()
        child.join()
        yield Verdict(kind, outcome, told)


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as a table in Markdown, with the counts."""
    counts = {o: sum(v.outcome == o for v in verdicts) for o in ("right", "refused", "wrong", "crash", "not made")}
    head = f"{len(verdicts)} model types: " + ", ".join(f"{n} {o}" for o, n in counts.items())
    rows = [f"| `{v.kind}` | {v.outcome} | {_brief(v)} |" for v in verdicts]
    return "\n".join([head, "", "| model type | outcome | difference, or what is said |", "|---|---|---|", *rows])


def _brief(verdict: Verdict) -> str:
    """What is said, without what each line of the table would say again."""
    return verdict.told.replace(f"; {INSTEAD}", "").removeprefix(f"{verdict.kind}: ")


def page(verdicts: Sequence[Verdict]) -> str:
    """The page of the documentation."""
    return f"""# Which models are served

This table covers every causal language model type of transformers {transformers.__version__},
each with a tiny random model. `make survey` makes it again.

- *right*: the log-probabilities agree with transformers' own pass in float64 to {TOLERANCE:.0e}; the table gives
  the largest difference.
- *refused*: promptmill says why in one line, and writes nothing.
- *not made*: transformers itself made no model of the small sizes that were tried.

promptmill checks what a family's larger checkpoints need beyond that (a sliding window, scaled rotary
embeddings) when it loads a checkpoint. For a model that is not served, use transformers' own `generate`.

{table(verdicts)}
"""


if __name__ == "__main__":
    found = []
    for verdict in survey(sys.argv[1:] or kinds()):
        print(verdict.kind, verdict.outcome, verdict.told, file=sys.stderr, flush=True)
        found.append(verdict)
    if not sys.argv[1:]:
        PAGE.write_text(page(found))
    print(table(found))
