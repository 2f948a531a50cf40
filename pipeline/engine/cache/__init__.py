"""The KV cache: its blocks, who uses them, and how many fit."""
