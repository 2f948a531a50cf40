"""`promptmill doctor`: looks at the installation and the machine, and says what to do about what is not as it should be."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial

from jobs.console.launch import launch, show
from jobs.console.leave import leave
from jobs.spec import JobSpec
from pipeline.errors import ExitCode
from pipeline.run.config import DoctorConfig


def run(config: DoctorConfig, config_yaml: str) -> int:
    """Do all checks, print what they find, and return the exit code."""
    from pipeline.run.doctor.doctor import doctor  # late: it brings in the hub's client
    from pipeline.run.doctor.finding import State
    from pipeline.run.signals import signals_raise
    from pipeline.stages import Stage
    from pipeline.wording import plain

    found = []
    with signals_raise(), Stage("trying what a job needs"):
        for finding in doctor(config.output.path):
            found.append(finding)
            if not config.json:
                do = f"; {finding.do}" if finding.do else ""
                show(f"{finding.state:<15} {finding.about:<10} {plain(finding.text + do)}\n")
    good = all(finding.state is not State.FIX for finding in found)
    if config.json:
        show(
            json.dumps({"ok": good, "findings": [asdict(finding) for finding in found]}, indent=2, ensure_ascii=False)
            + "\n"
        )
    return ExitCode.COMPLETE if good else ExitCode.TO_FIX


JOB = JobSpec(
    name="doctor",
    summary="looks at installation, machine, Ray, store and hub, and says what to do",
    schema=DoctorConfig,
    run=run,
    positional=("output.path",),
    usage=("[OUT] [KEY=VALUE ...]",),
    examples=(
        ("this machine", "promptmill doctor"),
        ("also tries the store of a future output", "promptmill doctor output.path=s3://bucket/first"),
        ("for programs", "promptmill doctor json=true"),
    ),
    exit_codes=(
        ExitCode.COMPLETE, ExitCode.UNEXPECTED, ExitCode.REFUSED, ExitCode.TO_FIX, ExitCode.INTERRUPTED, ExitCode.TERMINATED,
    ),
)  # fmt: skip


main = partial(launch, JOB)

if __name__ == "__main__":
    leave(main())
