"""Checks an installation and its machine, and says how to fix what is wrong."""
