"""The continuous engine: schedule → run → sample → finish, over a batch that is refilled the moment a slot is free.

It does not know shards, files or where requests come from.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from types import MappingProxyType

import torch

from pipeline.engine.config import StatsConfig
from pipeline.engine.runner import ModelRunner
from pipeline.engine.sampler import sample
from pipeline.engine.scheduler import Scheduler, Step
from pipeline.engine.sequence import Sequence
from pipeline.engine.slots import SlotState
from pipeline.engine.stats import Distribution, compute
from pipeline.engine.stopping import StopWatch
from pipeline.engine.tokenizer import Tokenizer
from pipeline.types import Completion, ErrorCode, FinishReason, Request, RowError

NONFINITE = RowError(
    ErrorCode.NONFINITE_LOGITS, "the model's logits are not finite: its weights or type may be at fault"
)


class ContinuousEngine:
    """Continuous batching over a slot KV cache.

    Args:
        runner: The model with its cache.
        tokenizer: For stop strings and the completions' text.
        stats: Which statistics to compute.
        max_num_batched_tokens: Bound on a step's tokens.
    """

    def __init__(
        self, runner: ModelRunner, tokenizer: Tokenizer, stats: StatsConfig, max_num_batched_tokens: int
    ) -> None:
        """Start empty."""
        self._runner, self._tokenizer = runner, tokenizer
        self._scheduler = Scheduler(runner.slots, max_num_batched_tokens)
        loaded = runner.loaded
        self._state = SlotState(runner.slots, runner.max_len, loaded.vocab_size, loaded.device)
        # the log-probability is always computed: the cumulative one is its sum
        self._statistics = [
            *dict.fromkeys(["logprob", *stats.columns]),
            *(["top_logprobs"] if stats.top_logprobs else []),
        ]
        self._top, self._prompt_logprobs = stats.top_logprobs, stats.prompt_logprobs
        self._watches: dict[int, StopWatch] = {}
        self._prompt_values: dict[int, list[torch.Tensor]] = {}

    def add(self, requests: Seq[Request]) -> None:
        """Queue requests; see `Engine.add`."""
        limit = self._runner.max_len
        self._scheduler.add(Sequence(r, min(r.sampling.max_tokens, limit - len(r.prompt_token_ids))) for r in requests)

    def load(self) -> tuple[int, int]:
        """Return (running, waiting)."""
        return len(self._scheduler.running), self._scheduler.waiting

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        """Advance every running sequence; see `Engine.step`."""
        admitted, step = self._scheduler.schedule()
        for sequence in admitted:
            watch = StopWatch(sequence.request, sequence.max_new, self._runner.loaded.eos_token_ids, self._tokenizer)
            self._watches[sequence.slot] = watch
            self._state.admit(sequence, watch)
        if not step.decodes and not step.chunks:
            return []
        with_prompt = frozenset(c.sequence.slot for c in step.chunks) if self._prompt_logprobs else frozenset[int]()
        logits = self._runner.run(step, self._state.tokens, prompt_logits=with_prompt)
        if with_prompt:
            logits = self._take_prompt_logprobs(step, logits)
        sequences = [*step.decodes, *(c.sequence for c in step.chunks if c.last)]
        return self._advance(sequences, logits) if sequences else []

    def _advance(self, sequences: list[Sequence], logits: torch.Tensor) -> list[Completion]:
        """Choose a token for each sequence from its row of logits [B, V], and finish those that end."""
        rows = len(sequences)
        if rows == 1:
            logits = logits.expand(2, -1)  # a lone row is reduced by several threads, with other rounding
        sequences_or_twice = sequences if rows > 1 else sequences * 2
        finite = logits.sum(-1).isfinite()
        probabilities = torch.softmax(logits, -1)
        constrained = self._state.constrain(logits, sequences_or_twice)
        parameters = self._state.sampling_rows(sequences_or_twice)
        unscaled = constrained is logits and bool((parameters.temperature == 1).all())
        chosen = sample(constrained, parameters, probabilities if unscaled else None)
        values = compute(
            self._statistics, Distribution(logits, torch.log_softmax(logits, -1), probabilities, chosen, self._top)
        )
        self._state.record(sequences, chosen[:rows], {name: value[:rows] for name, value in values.items()})
        done = []
        for sequence, token, good in zip(sequences, chosen[:rows].tolist(), finite[:rows].tolist(), strict=True):
            if not good:
                done.append(self._finish(sequence, FinishReason.ERROR, None))
                continue
            sequence.generated.append(token)
            ended = self._watches[sequence.slot].check(sequence.generated)
            if ended is not None:
                done.append(self._finish(sequence, *ended))
        return done

    def _finish(self, sequence: Sequence, reason: FinishReason, stopped_by: str | None) -> Completion:
        """Give the slot back and make the completion."""
        slot, request = sequence.slot, sequence.request
        watch, prompt_values = self._watches.pop(slot), self._prompt_values.pop(slot, None)
        if reason is FinishReason.ERROR:
            self._runner.cache.release(slot, clear=True)
            self._scheduler.release(sequence)
            return Completion(request, finish_reason=reason, error=NONFINITE)
        statistics = {name: value.numpy() for name, value in self._state.statistics(sequence).items()}
        self._runner.cache.release(slot)
        self._scheduler.release(sequence)
        return Completion(
            request, tuple(sequence.generated), watch.text(sequence.generated, reason), reason, stopped_by,
            MappingProxyType(statistics),
            None if prompt_values is None else torch.cat(prompt_values).numpy(),
        )  # fmt: skip

    def _take_prompt_logprobs(self, step: Step, logits: torch.Tensor) -> torch.Tensor:
        """Keep the log-probabilities of the chunks' prompt tokens and return the rows that choose tokens.

        Row i of a chunk predicts the prompt token after position i; the first token of a text has none (NaN).
        """
        chooses, row = list(range(len(step.decodes))), len(step.decodes)
        for chunk in step.chunks:
            prompt = chunk.sequence.request.prompt_token_ids
            predicted = prompt[chunk.start + 1 : chunk.start + chunk.length + 1]
            kept = self._prompt_values.setdefault(chunk.sequence.slot, [torch.full((1,), torch.nan)])
            block = torch.log_softmax(logits[row : row + chunk.length], -1)
            targets = torch.tensor(predicted, device=logits.device)
            kept.append(block[: len(predicted)].gather(-1, targets[:, None])[:, 0].cpu())
            row += chunk.length
            if chunk.last:
                chooses.append(row - 1)
        return logits[chooses]
