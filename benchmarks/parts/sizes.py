"""How large a model is: the weights of its linear layers, and a model with random weights to measure with.

It does not know speeds; see `arithmetic` and `limits`.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from benchmarks.parts.arithmetic import Sizes

TOKENIZER = Path(__file__).parents[2] / "examples" / "demo-model"
"""Any will do: the workloads are token ids."""
RANDOM = {"tiny": (64, 2, 2), "gpt2": (768, 12, 12), "gpt2-large": (1280, 36, 20)}
"""Name → (width, layers, heads)."""


@dataclass(frozen=True, slots=True)
class Linears:
    """The products of one step: (out, in) of each linear layer in the model's order, the output layer last."""

    shapes: tuple[tuple[int, int], ...]
    sizes: Sizes

    @property
    def figures(self) -> dict[str, Any]:
        """The sizes, as JSON holds them."""
        return asdict(self.sizes)


def make_model(name: str, folder: Path) -> Path:
    """Write a GPT-2 with random weights: speed does not depend on what they are."""
    width, layers, heads = RANDOM[name]
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_embd=width, n_layer=layers, n_head=heads)).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / file, folder)
    return folder


def linears(model: Path) -> Linears:
    """Read a model's linear layers off its configuration; no weights are loaded."""
    config = AutoConfig.from_pretrained(model, local_files_only=True)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    output = empty.get_output_embeddings()
    body, others = [], 0
    for module in empty.modules():
        if isinstance(module, nn.Linear | Conv1D):
            others += 0 if module.bias is None else module.bias.numel()
            if module is not output:
                rows, columns = module.weight.shape
                body.append((columns, rows) if isinstance(module, Conv1D) else (rows, columns))
        else:
            others += sum(parameter.numel() for parameter in module.parameters(recurse=False))
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    keys = text.num_hidden_layers * (getattr(text, "num_key_value_heads", None) or heads) * head_dim
    rows, columns = output.weight.shape
    sizes = Sizes(body=sum(n * k for n, k in body), head=rows * columns, others=others, kv_values=2 * keys)
    return Linears((*body, (rows, columns)), sizes)
