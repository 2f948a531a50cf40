"""Documents the jobs and their options: help pages, completion, the generated reference."""
