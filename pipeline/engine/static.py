"""The static engine: one padded batch at a time with transformers' own arithmetic. The oracle of the tests.

It shares only sampling and statistics with the continuous engine. Linear layers, attention and cache are transformers' own,
and a batch runs until its last sequence ends. It does not promise the same bits in every batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.engine.config import StatsConfig
from pipeline.engine.layers.stats import Values, token_logprobs
from pipeline.engine.model.load import LoadedModel
from pipeline.engine.model.tokenizer import Tokenizer
from pipeline.engine.rules.stopping import StopWatch
from pipeline.engine.rules.structured import Grammars
from pipeline.engine.sequence import Sequence
from pipeline.engine.steps.eager import LOGITS_BYTES, choose, measured
from pipeline.engine.steps.flight import NONFINITE
from pipeline.engine.steps.record import Record
from pipeline.engine.steps.slots import SlotState
from pipeline.types import Completion, FinishReason, Request, Room


@dataclass
class _Batch:
    """A running batch: its sequences, those that have not ended, and the inputs of the next step.

    Attributes:
        ids: [B, T] tokens of the next step: all of the prompts first, then one.
        mask: [B, positions] which of all positions are tokens of a row.
        cache: transformers' own, None before the first step.
    """

    state: SlotState
    record: Record
    sequences: list[Sequence]
    watches: list[StopWatch]
    live: list[Sequence]
    ids: torch.Tensor
    mask: torch.Tensor
    cache: Any = None


class StaticEngine:
    """Left-padded batches with a growing cache, as `generate` does it.

    Args:
        loaded: A model loaded with `plain=True`.
        tokenizer: For stop strings and the completions' text.
        stats: Which statistics to compute.
        batch_size: Sequences in a batch.
        max_len: Longest prompt plus generation.
    """

    def __init__(
        self, loaded: LoadedModel, tokenizer: Tokenizer, stats: StatsConfig, batch_size: int, max_len: int
    ) -> None:
        """Start empty."""
        self._loaded, self._tokenizer, self._stats = loaded, tokenizer, stats
        self._batch_size, self._max_len = batch_size, max_len
        self._grammars = Grammars(tokenizer, loaded.vocab_size, loaded.eos_token_ids, torch.get_num_threads())
        self._waiting: deque[Request] = deque()
        self._batch: _Batch | None = None

    def add(self, requests: Seq[Request]) -> None:
        """Queue requests; see `Engine.add`."""
        self._waiting.extend(requests)

    def load(self) -> tuple[int, int]:
        """Return (sequences of the batch that have not ended, waiting); see `Engine.load`."""
        return (len(self._batch.live) if self._batch else 0), len(self._waiting)

    @property
    def room(self) -> Room:
        """The size of a batch; the cache grows with it and has no blocks."""
        live = self._batch.live if self._batch else []
        return Room(self._batch_size, open_tokens=sum(len(sequence.generated) for sequence in live))

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        """Add a token to each sequence of the batch, which is a new one if the last one has ended; see `Engine.step`."""
        if self._batch is None and self._waiting and self._waiting[0].scored_from is not None:
            return [self._score(self._waiting.popleft())]
        if self._batch is None and self._waiting:
            self._batch = self._begin()
        batch = self._batch
        if batch is None:
            return []
        # rows that have ended run on; their positions must stay within the model's
        positions = (batch.mask.cumsum(-1) - 1).clamp_(0, self._max_len - 1)[:, -batch.ids.shape[1] :]
        out = self._loaded.model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=positions, past_key_values=batch.cache,
            use_cache=True,
        )  # fmt: skip
        sequences = batch.sequences
        if batch.cache is None and self._stats.prompt_logprobs:
            batch.record.add_prompt(list(zip(sequences, self._prompt_logprobs(out.logits, sequences), strict=True)))
        batch.cache = out.past_key_values
        done = self._advance(batch, out.logits[:, -1].float())
        # finished rows go on with their last token; their results are ignored
        last = [[s.generated[-1] if s.generated else 0] for s in sequences]
        batch.ids = torch.tensor(last, device=self._loaded.device)
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(sequences), 1)], 1)
        if not batch.live:
            self._batch = None
        return done

    def _score(self, request: Request) -> Completion:
        """Score a request's tokens in pieces, so that few logits are in memory at once."""
        ids, first, device = request.prompt_token_ids, request.scored_from or 1, self._loaded.device
        size, cache, found = max(1, LOGITS_BYTES // (4 * self._loaded.vocab_size)), None, list[Values]()
        for start in range(0, request.read, size):
            piece = torch.tensor(ids[start : min(start + size, request.read)], device=device)
            places = torch.arange(start, start + len(piece), device=device)
            out = self._loaded.model(
                input_ids=piece[None], position_ids=places[None], past_key_values=cache, use_cache=True
            )
            cache, skip = out.past_key_values, max(0, first - 1 - start)
            if skip < len(piece):
                targets = ids[start + skip + 1 : start + len(piece) + 1]
                values, finite = measured(out.logits[0, skip:].float(), targets, self._stats)
                if not finite:
                    return Completion(request, finish_reason=FinishReason.ERROR, error=NONFINITE)
                found.append(values)
        statistics = {name: torch.cat([values[name] for values in found]).numpy() for name in found[0]}
        return Completion(request, ids[first:], statistics=statistics)

    def _begin(self) -> _Batch:
        """Take the next requests: their prompts, padded on the left to the longest."""
        requests = [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]
        limit, device = self._max_len, self._loaded.device
        state = SlotState(len(requests), limit, self._loaded.vocab_size, device, self._tokenizer, self._grammars)
        sequences = [
            Sequence(r, min(r.sampling.max_tokens, limit - len(r.prompt_token_ids)), slot=i)
            for i, r in enumerate(requests)
        ]
        eos = self._loaded.eos_token_ids
        watches = [
            StopWatch(s.request, s.max_new, eos, self._tokenizer, self._grammars.start(s.request.sampling))
            for s in sequences
        ]
        state.admit(list(zip(sequences, watches, strict=True)))
        width = max(s.prompt_len for s in sequences)
        ids = torch.zeros(len(requests), width, dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, width - sequence.prompt_len :] = state.tokens[row, : sequence.prompt_len]
            mask[row, width - sequence.prompt_len :] = 1
        return _Batch(state, Record(len(requests), limit), sequences, watches, list(sequences), ids, mask)

    def _advance(self, batch: _Batch, logits: torch.Tensor) -> list[Completion]:
        """Choose a token per live row, remove the rows that end, and return their completions."""
        live, record = batch.live, batch.record
        flight = choose(batch.state, self._stats, live, logits[[s.slot for s in live]])
        outcome = flight.wait()
        ends, done = outcome.ends, list[Completion]()
        record.add(live, range(len(live)), outcome.values)
        for row, (sequence, token, good) in enumerate(zip(list(live), outcome.tokens, outcome.finite, strict=True)):
            watch = batch.watches[sequence.slot]
            if good and row not in ends:
                sequence.generated.append(token)
                ended = watch.check(sequence.generated)
                if ended is None:
                    continue
                reason, stopped_by, error = *ended, None
            else:
                reason, error = ends[row] if good else (FinishReason.ERROR, NONFINITE)
                stopped_by = None
            live.remove(sequence)
            if reason is FinishReason.ERROR:
                done.append(Completion(sequence.request, finish_reason=reason, error=error))
                continue
            done.append(Completion(
                sequence.request, tuple(sequence.generated), watch.text(sequence.generated, reason), reason, stopped_by,
                *record.of(sequence),
            ))  # fmt: skip
        return done

    @staticmethod
    def _prompt_logprobs(logits: torch.Tensor, sequences: list[Sequence]) -> list[torch.Tensor]:
        """Log-probabilities of each prompt's tokens but the first."""
        values = []
        for row, sequence in enumerate(sequences):
            block = logits[row, -sequence.prompt_len : -1].float()
            targets = torch.tensor(sequence.request.prompt_token_ids[1:], dtype=torch.long, device=logits.device)
            values.append(token_logprobs(block, targets).cpu())
        return values
