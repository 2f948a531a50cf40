"""What several benchmarks share: workloads, procedure, models, tables."""
