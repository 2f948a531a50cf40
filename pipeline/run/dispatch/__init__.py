"""Decides which replica does which task, and handles reports and deaths."""
