"""Shows where the milliseconds of a step go, by kind of step, and prints a table and one JSON line.

    python -m benchmarks.phases MODEL WORKLOAD REQUESTS BATCH [--int8] [--prefix-caching on|off]

It times the engine at the seams between its parts. Each instant counts for the innermost phase only, so the phases of a step
add up to the step.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from benchmarks import ours  # first: it sets how threads wait, which is read when torch is loaded
from benchmarks.parts.procedure import report
from benchmarks.parts.workload import Answers, Work, answers, make

BOOKKEEPING = "cache, bookkeeping"
OUTPUT = "output layer"
MODEL = "norms, rest of the model"
PHASES = ("linears", OUTPUT, "attention", "activations", MODEL, BOOKKEEPING, "sampling", "statistics")
SEAMS = {
    "pipeline.engine.layers.activation:RowwiseActivation.forward": "activations",
    "pipeline.engine.steps.eager:choose": "sampling",
}
"""What is timed as it stands; the others need to be looked into, see `Seams`."""
LINEAR = "pipeline.engine.layers.linear:PackedLinear.forward"
RUNNER = "pipeline.engine.steps.runner:ModelRunner.run"
ATTENTION = "pipeline.engine.layers.attention:IMPLEMENTATION"
STATISTICS = "pipeline.engine.layers.stats:STATISTICS"


class Clock:
    """Adds up seconds by phase; an inner phase stops the outer one's time."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        """Start in no phase."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._now, self._since = now, 0.0
        self._open: list[str] = []

    def timed(self, phase: str | Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function; `phase` may be a function of its arguments that names the phase."""

        def wrapped(*positional: Any, **named: Any) -> Any:
            self._switch(phase if isinstance(phase, str) else phase(*positional))
            try:
                return function(*positional, **named)
            finally:
                self._switch(None)

        return wrapped

    def _switch(self, phase: str | None) -> None:
        """Enter a phase, or leave the innermost one."""
        now = self._now()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        if phase is None:
            self._open.pop()
        else:
            self._open.append(phase)
        self._since = now


@dataclass(frozen=True, slots=True)
class StepTime:
    """One step: how many sequences decoded, how many prompt tokens were read, and the seconds of each phase."""

    decodes: int
    prompt_tokens: int
    seconds: dict[str, float]

    @property
    def kind(self) -> tuple[int, str]:
        """A place in the table and a name: steps that read prompts, then those that only decode, by powers of two."""
        if self.prompt_tokens:
            return 0, "reads prompts"
        low = 1 << (self.decodes.bit_length() - 1)
        return low, "decodes 1" if low == 1 else f"decodes {low} to {2 * low - 1}"


def found(seam: str) -> tuple[Any, str, Any]:
    """Return the owner, the name and the value of `module:path.to.name`.

    Raises:
        SystemExit: If it is not there any more.
    """
    module, path = seam.split(":")
    *way, name = path.split(".")
    try:
        owner: Any = import_module(module)
        for step in way:
            owner = getattr(owner, step)
        return owner, name, getattr(owner, name)
    except (ImportError, AttributeError) as error:
        raise SystemExit(
            f"benchmarks/phases.py: the seam {seam} is gone ({error}); give it its new name there"
        ) from None


class Seams:
    """Puts a clock at the engine's seams, for the rest of this process."""

    def __init__(self, clock: Clock) -> None:
        """Exchange the functions; this must come before the model is loaded."""
        self._clock = clock
        self._output: Any = None
        self.work: tuple[int, int] | None = None
        from transformers import AttentionInterface

        for seam, phase in SEAMS.items():
            owner, name, function = found(seam)
            setattr(owner, name, clock.timed(phase, function))
        owner, name, function = found(LINEAR)
        setattr(owner, name, clock.timed(lambda module, *_: OUTPUT if module is self._output else "linears", function))
        owner, name, self._run = found(RUNNER)
        setattr(owner, name, clock.timed(BOOKKEEPING, lambda *args, **named: self._observed(*args, **named)))
        implementation = found(ATTENTION)[2]
        attention = AttentionInterface()  # type: ignore[no-untyped-call]
        AttentionInterface.register(implementation, clock.timed("attention", attention[implementation]))
        registry = found(STATISTICS)[2]
        for name, statistic in registry.items():
            registry[name] = clock.timed("statistics", statistic)

    def _observed(self, runner: Any, step: Any, *rest: Any, **named: Any) -> Any:
        """Run a step, having noted what it computes."""
        try:
            self.work = len(step.decodes), sum(chunk.length for chunk in step.chunks)
            if self._output is None:
                model = runner.loaded.model
                self._output = model.get_output_embeddings()
                for part in {model, model.base_model}:
                    part.forward = self._clock.timed(MODEL, part.forward)
        except AttributeError as error:
            raise SystemExit(f"benchmarks/phases.py: ModelRunner.run has other arguments now ({error})") from None
        return self._run(runner, step, *rest, **named)


def record(engine: Any, work: Work, clock: Clock, seams: Seams, asked: Answers = ours.ONE) -> list[StepTime]:
    """Run a workload to its end, step by step."""
    step = clock.timed(BOOKKEEPING, engine.step)
    ours.add(engine, work, asked)
    times: list[StepTime] = []
    while any(engine.load()):
        clock.seconds.clear()
        seams.work = None
        step()
        if seams.work is not None:
            times.append(StepTime(*seams.work, dict(clock.seconds)))
    return times


def summary(times: list[StepTime]) -> list[dict[str, Any]]:
    """One entry a kind of step: its number, mean load, and mean milliseconds of each phase."""
    kinds: dict[tuple[int, str], list[StepTime]] = defaultdict(list)
    for entry in times:
        kinds[entry.kind].append(entry)
    return [
        {
            "kind": name, "steps": len(group), "sequences": statistics.mean(t.decodes for t in group),
            "prompt_tokens": statistics.mean(t.prompt_tokens for t in group),
            "milliseconds": {p: 1e3 * statistics.mean(t.seconds.get(p, 0.0) for t in group) for p in PHASES},
        }
        for (_, name), group in sorted(kinds.items())
    ]  # fmt: skip


def table(entries: list[dict[str, Any]]) -> str:
    """The summary as Markdown: mean milliseconds a step."""
    lines = [
        f"| step | number | sequences | prompt tokens | ms | {' | '.join(PHASES)} |",
        "|---|" + "---:|" * (4 + len(PHASES)),
    ]
    for entry in entries:
        phases = entry["milliseconds"]
        cells = [f"{entry['sequences']:.1f}", f"{entry['prompt_tokens']:.1f}", f"{sum(phases.values()):.1f}"]
        cells += [f"{phases[phase]:.1f}" for phase in PHASES]
        lines.append(f"| {entry['kind']} | {entry['steps']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Load, run, print."""
    arguments = ours.options(__doc__).parse_args()
    clock = Clock()
    seams = Seams(clock)
    built = ours.build(arguments)
    work, asked = make(arguments.workload, arguments.requests), answers(arguments.workload)
    ours.run(built.engine, [(prompt[::-1], min(new, 2)) for prompt, new in work[:2]], asked)
    times = record(built.engine, work, clock, seams, asked)
    entries = summary(times)
    print(table(entries))
    full = [sum(t.seconds.values()) for t in times if t.decodes == arguments.batch and not t.prompt_tokens]
    report(
        {
            "engine": "promptmill", "precision": "int8" if arguments.int8 else "float32", "workload": arguments.workload,
            "requests": len(work), "batch": arguments.batch, "phases": entries, "facts": built.facts,
            "full_steps": len(full), "full_step_seconds": statistics.median(full) if full else None,
        },
        "promptmill", "torch", "transformers",
    )  # fmt: skip


if __name__ == "__main__":
    main()
