"""Shows rows of an output in a terminal, finished or not."""
