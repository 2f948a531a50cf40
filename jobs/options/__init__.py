"""Turns a command line into a typed configuration: presets, overrides, help and error messages."""
