"""`python -m jobs JOB …` is `promptmill JOB …`; it knows nothing of its own."""

from jobs.cli import run

run()
