"""Reads outputs: checks, compares and shows them, and changes nothing."""
