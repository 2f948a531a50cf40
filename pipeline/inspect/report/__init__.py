"""The report of an output: one page that tells people what came out and how the run went."""
