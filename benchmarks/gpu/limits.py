"""The parts in order of importance, and how long each may take. Imports nothing: the supervisor reads it without torch."""


class OutOfTime(BaseException):
    """A part took longer than it may. No `except Exception` on the way keeps it: a loader would take it for a bad file."""


NO_DEVICE = 2
"""Exit status where there is no device to measure."""
LIMITS = {
    "machine": 60, "correctness": 150, "same bytes": 150, "own tests": 180, "faults": 200, "attention": 60, "products": 60,
    "throughput": 200, "whole job": 150, "roofline": 60,
    "profile": 60, "options": 200, "same bytes, large": 100, "other sizes": 200, "continuous batching": 120,
}  # fmt: skip
"""Part → seconds."""
