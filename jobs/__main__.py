"""`python -m jobs JOB …` is `promptmill JOB …`; it knows nothing of its own."""

import sys

from jobs.cli import main

sys.exit(main())
