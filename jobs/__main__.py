"""Makes `python -m jobs JOB …` the same as `promptmill JOB …`."""

from jobs.cli import run

run()
