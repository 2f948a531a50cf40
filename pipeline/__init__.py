"""promptmill's library: planning, prompts, engine, output and the run that joins them.

The package itself imports nothing heavy: torch, pyarrow and ray are imported by the subpackages that need them.
"""

__version__ = "0.1.0"
