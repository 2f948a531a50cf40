"""Replacements for a model's layers, and the checks that choose among kernels."""
