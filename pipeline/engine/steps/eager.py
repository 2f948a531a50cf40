"""Computes a step immediately, with tensors of its own shape: on CPUs, and on GPUs without our kernels."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch

from pipeline.engine import native
from pipeline.engine.config import StatsConfig
from pipeline.engine.layers.sampler import sample
from pipeline.engine.layers.stats import Distribution, Values, compute, token_logprobs, wanted
from pipeline.engine.rules.stopping import StopWatch
from pipeline.engine.scheduler import Step
from pipeline.engine.sequence import Sequence
from pipeline.engine.steps.flight import Flight, Outcome, Scores
from pipeline.engine.steps.runner import ModelRunner
from pipeline.engine.steps.slots import SlotState

LOGITS_BYTES = 64 << 20
"""Most bytes of float32 logits of scored tokens that a step holds."""


class EagerStepper:
    """Computes a step within `launch`.

    Args:
        runner: The model with its cache.
        state: The state of the slots.
        stats: Which statistics to compute.
    """

    def __init__(self, runner: ModelRunner, state: SlotState, stats: StatsConfig) -> None:
        """Keep the parts."""
        self._runner, self._state, self._stats = runner, state, stats

    def admit(self, admitted: Seq[tuple[Sequence, StopWatch | None]]) -> None:
        """Admit sequences; see `Stepper.admit`."""
        self._state.admit(admitted)

    def shed(self) -> bool:
        """See `Stepper.shed`: it keeps nothing."""
        return False

    def launch(self, step: Step) -> Flight:
        """Compute a step; see `Stepper.launch`."""
        if step.scores:
            scores = scored_tokens(step, self._runner.run(step, self._state.tokens), self._stats)
            return Flight([], lambda: Outcome(scores=scores))
        prompts = self._stats.prompt_logprobs
        with_prompt = frozenset(c.sequence.slot for c in step.chunks) if prompts else frozenset[int]()
        logits = self._runner.run(step, self._state.tokens, prompt_logits=with_prompt)
        read = prompt_logprobs(step, logits) if prompts else []
        if with_prompt:
            logits = logits[choosing_rows(step)]
        if not step.choosing:
            return Flight([], lambda: Outcome(prompt_logprobs=read))
        return choose(self._state, self._stats, step.choosing, logits, read)


def choose(
    state: SlotState, stats: StatsConfig, sequences: list[Sequence], logits: torch.Tensor,
    read: Seq[tuple[Sequence, torch.Tensor]] = (),
) -> Flight:  # fmt: skip
    """Choose a token for each sequence from its row of logits, and compute its statistics.

    Args:
        state: The state of the slots; the tokens go there.
        stats: Which statistics to compute.
        sequences: The B sequences that choose.
        logits: The model's logits, float32 [B, V].
        read: Log-probabilities of prompt tokens from the same step.
    """
    rows = len(sequences)
    if twice := rows == 1 and not native.serves(logits):
        logits = logits.expand(2, -1)  # torch reduces a single row with several threads, which rounds differently
    sequences_or_twice = sequences * 2 if twice else sequences
    constrained, emptied = state.constrain(logits, sequences_or_twice)
    truncates, all_greedy = state.rules(sequences)
    slots, positions, columns = (
        torch.tensor(numbers, device=logits.device)
        for numbers in zip(*[(s.slot, s.asked, s.prompt_len + s.asked) for s in sequences_or_twice], strict=True)
    )
    chosen = sample(constrained, state.sampling_rows(slots, positions, truncates=truncates, all_greedy=all_greedy))
    distribution = Distribution(logits, chosen, stats.top_logprobs)
    values = compute(wanted(stats), distribution)
    state.record(slots[:rows], columns[:rows], chosen[:rows])
    state.count(slots[:rows], chosen[:rows])
    outcome = Outcome(
        chosen[:rows].tolist(), distribution.measures.finite[:rows].tolist(),
        {name: value[:rows].cpu() for name, value in values.items()}, list(read), emptied.ends(),
    )  # fmt: skip
    return Flight(sequences, lambda: outcome)


def choosing_rows(step: Step) -> list[int]:
    """Return which rows choose tokens, among a step's logits at every position of its prompts."""
    chooses, row = list(range(len(step.decodes))), len(step.decodes)
    for chunk in step.chunks:
        row += chunk.length
        if chunk.last:
            chooses.append(row - 1)
    return chooses


def prompt_logprobs(step: Step, logits: torch.Tensor) -> list[tuple[Sequence, torch.Tensor]]:
    """Return the log-probabilities of the chunks' prompt tokens.

    Row i of a chunk predicts the prompt token after position i; the first token of a prompt has no prediction.

    Args:
        step: The step.
        logits: Float32 [decodes + tokens of chunks, V].
    """
    if not step.chunks:
        return []
    predicted = [c.sequence.request.prompt_token_ids[c.start + 1 : c.start + c.length + 1] for c in step.chunks]
    counts = [len(tokens) for tokens in predicted]
    targets = torch.tensor([t for tokens in predicted for t in tokens], dtype=torch.long, device=logits.device)
    values, row = [], len(step.decodes)
    for chunk, own in zip(step.chunks, torch.split(targets, counts), strict=True):
        # a copy starts at an aligned address; otherwise the chunk's offset would change which SIMD lanes add which elements
        values.append(token_logprobs(logits[row : row + len(own)].clone(), own))
        row += chunk.length
    # fetched together: a GPU is waited for once
    found = torch.split(torch.cat(values).cpu(), counts)
    return [(c.sequence, v) for c, v in zip(step.chunks, found, strict=True)]


def scored_tokens(step: Step, logits: torch.Tensor, stats: StatsConfig) -> list[Scores]:
    """Return the statistics of a step's scored tokens.

    Args:
        step: The step, whose sequences are all scored.
        logits: Float32 [R, V]: the rows of each chunk before a scored token, in order.
        stats: Which statistics to compute.
    """
    found, row = [], 0
    for chunk in step.chunks:
        if count := len(chunk.scored):
            first = chunk.start + chunk.scored.start + 1
            ids = chunk.sequence.request.prompt_token_ids[first : first + count]
            values, finite = measured(logits[row : row + count], ids, stats)
            found.append(Scores(chunk.sequence, values, finite, chunk.last))
            row += count
    return found


def measured(logits: torch.Tensor, ids: Seq[int], stats: StatsConfig) -> tuple[Values, bool]:
    """Return the statistics of given tokens, in the host's memory, and whether all logits are finite.

    Args:
        logits: Float32 [N, V].
        ids: The N tokens.
        stats: Which statistics to compute.
    """
    rows, targets = len(ids), torch.tensor(ids, dtype=torch.long, device=logits.device)
    if logits.device.type == "cpu" and not native.serves(logits):
        # a copy starts at an aligned address, and has two rows at least: otherwise torch would round differently
        logits, targets = (torch.cat([t, t]) if rows == 1 else t.clone() for t in (logits, targets))
    distribution = Distribution(logits, targets, stats.top_logprobs)
    values = {name: value[:rows].cpu() for name, value in compute(wanted(stats), distribution).items()}
    return values, bool(distribution.measures.finite[:rows].all())
