"""The static engine: one padded batch at a time with transformers' untouched arithmetic. The oracle of the tests.

It shares the sampling and the statistics with the continuous engine, and nothing else: its linears, attention and cache
are transformers' own, and a batch runs until its last sequence ends. It does not promise the same bits in every batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Seq

import torch

from pipeline.engine.config import StatsConfig
from pipeline.engine.layers.stats import token_logprobs
from pipeline.engine.model.load import LoadedModel
from pipeline.engine.model.tokenizer import Tokenizer
from pipeline.engine.rules.stopping import StopWatch
from pipeline.engine.rules.structured import Grammars
from pipeline.engine.sequence import Sequence
from pipeline.engine.steps.eager import choose
from pipeline.engine.steps.flight import NONFINITE
from pipeline.engine.steps.record import Record
from pipeline.engine.steps.slots import SlotState
from pipeline.types import Completion, FinishReason, Request, Room


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

    def add(self, requests: Seq[Request]) -> None:
        """Queue requests; see `Engine.add`."""
        self._waiting.extend(requests)

    def load(self) -> tuple[int, int]:
        """Return (0, waiting): between steps nothing runs."""
        return 0, len(self._waiting)

    @property
    def room(self) -> Room:
        """The size of a batch; the cache grows with it and has no blocks."""
        return Room(self._batch_size)

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        """Run one whole batch; see `Engine.step`."""
        batch = [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]
        if not batch:
            return []
        limit, device = self._max_len, self._loaded.device
        state = SlotState(len(batch), limit, self._loaded.vocab_size, device, self._tokenizer, self._grammars)
        sequences = [
            Sequence(r, min(r.sampling.max_tokens, limit - len(r.prompt_token_ids)), slot=i)
            for i, r in enumerate(batch)
        ]
        eos = self._loaded.eos_token_ids
        watches = [
            StopWatch(s.request, s.max_new, eos, self._tokenizer, self._grammars.start(s.request.sampling))
            for s in sequences
        ]
        state.admit(list(zip(sequences, watches, strict=True)))
        record = Record(len(batch), limit)
        width = max(s.prompt_len for s in sequences)
        ids = torch.zeros(len(batch), width, dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, width - sequence.prompt_len :] = state.tokens[row, : sequence.prompt_len]
            mask[row, width - sequence.prompt_len :] = 1
        cache, live, done = None, list(sequences), list[Completion]()
        while live:
            # a row that has ended runs on; its positions must not run out of the model's
            positions = (mask.cumsum(-1) - 1).clamp_(0, limit - 1)[:, -ids.shape[1] :]
            out = self._loaded.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            )
            if cache is None and self._stats.prompt_logprobs:
                record.add_prompt(list(zip(sequences, self._prompt_logprobs(out.logits, sequences), strict=True)))
            cache = out.past_key_values
            done += self._advance(state, record, out.logits[:, -1].float(), live, watches)
            # finished rows go on with their last token; nobody reads what they give
            ids = torch.tensor([[s.generated[-1] if s.generated else 0] for s in sequences], device=device)
            mask = torch.cat([mask, mask.new_ones(len(batch), 1)], 1)
        return done

    def _advance(
        self, state: SlotState, record: Record, logits: torch.Tensor, live: list[Sequence], watches: list[StopWatch]
    ) -> list[Completion]:
        """Choose a token for each live row; remove from `live` what ends, and return it."""
        flight = choose(state, self._stats, live, logits[[s.slot for s in live]])
        outcome = flight.wait()
        ends, done = outcome.ends, list[Completion]()
        record.add(live, range(len(live)), outcome.values)
        for row, (sequence, token, good) in enumerate(zip(list(live), outcome.tokens, outcome.finite, strict=True)):
            watch = watches[sequence.slot]
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
