"""The names and meanings of the figures of scored texts. Imports no Arrow, so that `--help` is quick."""

from __future__ import annotations

ACCURACIES = {
    "accuracy": "best",
    "accuracy_per_token": "best_per_token",
    "accuracy_per_byte": "best_per_byte",
    "accuracy_per_character": "best_per_character",
    "accuracy_unconditional": "best_unconditional",
}
"""Figure → the column of the ending that it takes for the answer."""
FIGURES = {
    "perplexity": "exp(negative log-likelihood / scored tokens)",
    "word_perplexity": "exp(negative log-likelihood / words)",
    "byte_perplexity": "exp(negative log-likelihood / bytes)",
    "bits_per_byte": "negative log-likelihood / (bytes · ln 2)",
    "text_perplexity": "exp(negative log-likelihood / completions)",
    "greedy_accuracy": "share of completions whose every token is the most likely one",
    "accuracy": "share of questions whose answer has the greatest log-likelihood",
    "accuracy_per_token": "the same, log-likelihood divided by the ending's tokens",
    "accuracy_per_byte": "the same, log-likelihood divided by the ending's bytes",
    "accuracy_per_character": "the same, log-likelihood divided by the ending's characters",
    "accuracy_unconditional": "the same, less the log-likelihood of the ending without its context",
}
"""Figure → its meaning, in the order in which they are shown."""
