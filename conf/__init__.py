"""The presets: one YAML a job, one folder a group; they pick and override, and define nothing.

A package only so that an installed console script finds them. Keys, types and defaults are in `pipeline/*/config.py`.
"""
