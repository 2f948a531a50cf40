"""Proves an output complete and intact."""
