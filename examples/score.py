"""Compare the demo model's perplexity with that of the grammar it was trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grammar import Document

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the same documents cost under the model and under the grammar.

    Attributes:
        documents: Number of documents.
        tokens: Number of scored tokens, the end token of each document included.
        model_nats: Minus the model's log-probability of all documents.
        grammar_nats: Minus the grammar's log-probability of all documents.
    """

    documents: int
    tokens: int
    model_nats: float
    grammar_nats: float

    @property
    def model_perplexity(self) -> float:
        """The model's perplexity per token."""
        return math.exp(self.model_nats / self.tokens)

    @property
    def grammar_perplexity(self) -> float:
        """The grammar's perplexity per token; the grammar knows no tokens, so its nats are shared out among them."""
        return math.exp(self.grammar_nats / self.tokens)

    @property
    def ratio(self) -> float:
        """The model's perplexity divided by the grammar's."""
        return self.model_perplexity / self.grammar_perplexity


@torch.inference_mode()
def compare(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document], *, batch: int = 64
) -> Comparison:
    """Score documents with the model, each after an end token so that its first token counts too.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        documents: The documents, with their log-probabilities under the grammar.
        batch: Documents per forward pass.

    Returns:
        The totals.
    """
    end = tokenizer.eos_token_id
    rows = sorted(([end, *tokenizer(document.text)["input_ids"], end] for document in documents), key=len)
    nats = 0.0
    for start in range(0, len(rows), batch):
        group = rows[start : start + batch]
        longest = max(map(len, group))
        inputs = torch.tensor([row + [end] * (longest - len(row)) for row in group])
        scored = torch.tensor([[place < len(row) for place in range(1, longest)] for row in group])
        # Padding stands on the right, where no scored token sees it, so the mask need not exclude it.
        logits = model(input_ids=inputs, attention_mask=torch.ones_like(inputs), use_cache=False).logits
        taken = logits[:, :-1].double().log_softmax(-1).gather(-1, inputs[:, 1:, None])[..., 0]
        nats -= taken[scored].sum().item()
    return Comparison(
        documents=len(documents),
        tokens=sum(len(row) - 1 for row in rows),
        model_nats=nats,
        grammar_nats=-math.fsum(document.log_probability for document in documents),
    )
