"""The engine's computations with torch's own operations: they run everywhere."""
