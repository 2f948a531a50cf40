"""Train the demo's tokenizer and its small GPT-2 on documents of the demo grammar."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator
from itertools import islice

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from grammar import Grammar

__all__ = ["END", "train_model", "train_tokenizer"]

END = "<|endoftext|>"

_IGNORED = -100  # the label of padding
_BUCKETED = 16  # batches that are sorted by length together, which saves a quarter of the padding
_LOG = logging.getLogger(__name__)


def train_tokenizer(
    grammar: Grammar, *, seed: int, vocabulary: int = 1024, documents: int = 20_000
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, which can write any text whatever it was trained on.

    Args:
        grammar: Where the documents come from.
        seed: Seed of the documents.
        vocabulary: Number of tokens, the end token (number 0) and the 256 bytes included.
        documents: Number of documents to learn the merges from.

    Returns:
        The tokenizer. It adds no special tokens by itself, and writes no space before a text's first word.
    """
    rng = random.Random(seed)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((grammar.sample(rng).text for _ in range(documents)), trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )


def train_model(
    grammar: Grammar, tokenizer: PreTrainedTokenizerFast, *, seed: int, steps: int, batch: int = 64, rate: float = 3e-3
) -> GPT2LMHeadModel:
    """Train a GPT-2 of about a million parameters; every document is seen once.

    Args:
        grammar: Where the documents come from.
        tokenizer: The tokenizer of ``train_tokenizer``.
        seed: Seed of the weights and the documents.
        steps: Number of optimizer steps.
        batch: Documents per step.
        rate: The highest learning rate, reached after the warm-up.

    Returns:
        The model in float32, in evaluation mode.
    """
    torch.manual_seed(seed)
    end = _end(tokenizer)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer), n_positions=256, n_embd=128, n_layer=4, n_head=4,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            bos_token_id=end, eos_token_id=end, pad_token_id=end,
        )
    )  # fmt: skip
    model.train()
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    vectors = [weight for weight in model.parameters() if weight.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=rate,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _relative_rate(step, steps))
    for step, (inputs, labels) in enumerate(islice(_batches(grammar, tokenizer, seed, batch), steps), start=1):
        # Padding stands on the right, where no scored token sees it, so the mask need not exclude it.
        logits = model(input_ids=inputs, attention_mask=torch.ones_like(inputs), use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=_IGNORED
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            _LOG.info("step %d of %d: %.4f nats per token", step, steps, loss.item())
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=end, eos_token_id=end, pad_token_id=end
    )
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _end(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the number of the end token."""
    return tokenizer.get_vocab()[END]


def _relative_rate(step: int, steps: int, warm: int = 100) -> float:
    """Return the learning rate at ``step``, relative to the highest: a linear warm-up, then a cosine down to 0."""
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))


def _batches(
    grammar: Grammar, tokenizer: PreTrainedTokenizerFast, seed: int, batch: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield input tokens and labels, both of shape (batch, longest document), without end.

    The model is used in two ways: on a prompt that stands at position 0 by itself, and on a text after an end token,
    which gives its first token a probability too. So every sequence is one document, never a stream of several, and a
    random half of the documents follow an end token.
    """
    rng = random.Random(seed)
    end = _end(tokenizer)
    while True:
        texts = [grammar.sample(rng).text for _ in range(_BUCKETED * batch)]
        rows = [[end] * rng.randrange(2) + tokens + [end] for tokens in tokenizer(texts)["input_ids"]]
        rows.sort(key=len)
        groups = [rows[start : start + batch] for start in range(0, len(rows), batch)]
        rng.shuffle(groups)
        for group in groups:
            longest = max(map(len, group))
            inputs = torch.tensor([row + [end] * (longest - len(row)) for row in group])
            labels = torch.tensor([row + [_IGNORED] * (longest - len(row)) for row in group])
            yield inputs, labels
