"""`promptmill submit`: hands a job to a Ray cluster, follows it, and ends with its exit code."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from jobs.console.launch import launch, show
from jobs.console.leave import leave
from jobs.options.arguments import Arguments
from jobs.spec import JobSpec
from pipeline.errors import ConfigurationError, ExitCode
from pipeline.run.config import SubmitConfig
from pipeline.wording import lines_of

if TYPE_CHECKING:
    from jobs.options.bundle import Command
    from jobs.options.compose import Composed

VERBS = ("status", "stop")
OWN = ("job", "submission_id", "address", "wait", "python")

USAGE = ("[--no-wait] [KEY=VALUE | GROUP=PRESET ...]", "status submission_id=NAME", "stop submission_id=NAME")


@dataclass(frozen=True, slots=True)
class Request:
    """What a command line asks for.

    Attributes:
        verb: `status` or `stop`; None: submit.
        config: `submit`'s own configuration.
        yaml: That configuration as text.
        command: What the cluster is to run; None for a verb.
    """

    verb: str | None
    config: SubmitConfig
    yaml: str
    command: Command | None


def read(arguments: Arguments) -> Request:
    """Separate `submit`'s own keys from the job's, and check both.

    Raises:
        PromptmillError: If anything in either is wrong.
    """
    from jobs.options.bundle import command  # late: Hydra is not needed for the help page
    from jobs.options.compose import compose_runs

    overrides = list(arguments.overrides)
    verb = overrides.pop(0) if overrides[:1] and overrides[0] in VERBS else None
    own = [line for line in overrides if line.partition("=")[0] in OWN]
    rest = tuple(line for line in overrides if line not in own)
    (composed,) = compose_runs("submit", SubmitConfig, Arguments(tuple(own)))
    config, sent = composed.config, None
    assert config is not None
    if verb is None:
        sent = command(config.job, config.python, replace(arguments, overrides=rest))
    elif config.submission_id is None:
        raise ConfigurationError(f"submit {verb}: submission_id is missing: which job? give submission_id=…")
    elif rest:
        raise ConfigurationError(f"submit {verb}: takes only submission_id and address, not {rest[0]}")
    return Request(verb, config, composed.yaml, sent)


def _compose(arguments: Arguments) -> list[Composed[Request]]:
    from jobs.options.compose import Composed  # late, as above

    request = read(arguments)
    line = request.command.line if request.command is not None else ""
    return [Composed(arguments.overrides, f"{request.yaml}# {line}\n", request, verbose=False)]


def _run(request: Request, _: str) -> int:
    from pipeline.run.signals import signals_raise

    with signals_raise():
        return _ask(request) if request.command is None else _submit(request.config, request.command)


def _submit(config: SubmitConfig, command: Command) -> int:
    from jobs.options.bundle import bundle
    from pipeline.run.cluster.submission import Handed, JobServer
    from pipeline.stages import Stage

    server = JobServer(config.address)
    with bundle(command) as folder, Stage("handing the job over"):
        handed = server.submit(config.id, command.line, folder)
    _say(f"{config.id}: {handed.value}")
    if handed is Handed.DONE or not config.wait:
        return 0
    try:
        state = server.follow(config.id, _print)
    except KeyboardInterrupt:
        _say(f"{config.id} goes on without being followed; stop it with: promptmill submit stop {_where(config)}")
        raise
    if state.exit_code != 0:
        last = (lines_of(state.message) or ["no message"])[-1]
        _say(f"{config.id}: {state.status}, exit code {state.exit_code}: {last}")
    return state.exit_code or 0


def _ask(request: Request) -> int:
    """`status` and `stop`."""
    from pipeline.run.cluster.submission import JobServer

    config = request.config
    server = JobServer(config.address)
    state = server.known(config.id) if request.verb == "status" else server.stop(config.id)
    code = "" if state.exit_code is None else f", exit code {state.exit_code}"
    return show(f"{config.id}: {state.status}{code}\n")


def _print(text: str) -> None:
    show(text)


def _say(text: str) -> None:
    print("promptmill:", text, file=sys.stderr, flush=True)


def _where(config: SubmitConfig) -> str:
    return f"submission_id={config.id}" + (f" address={config.address}" if config.address else "")


JOB = JobSpec(
    name="submit",
    summary="hands a job to a Ray cluster and follows it",
    schema=SubmitConfig,
    run=_run,
    compose=_compose,
    usage=USAGE,
    flags=(("--no-wait", "wait=false", "do not stay until the job ends"),),
    examples=(
        (
            "tonight's job: submitted twice, it runs once",
            "promptmill submit submission_id=nightly-2026-11-22 address=http://head:8265 "
            "source.path=s3://bucket/prompts output.path=s3://bucket/2026-11-22",
        ),
        ("without waiting for its end", "promptmill submit --no-wait submission_id=first experiment=demo"),
        ("how it stands", "promptmill submit status submission_id=first"),
        ("stop it, resumable", "promptmill submit stop submission_id=first"),
    ),
    exit_codes=tuple(ExitCode),
)


main = partial(launch, JOB)

if __name__ == "__main__":
    leave(main())
