"""Looks at an installation and its machine, and says what to do about what is not as it should be."""
