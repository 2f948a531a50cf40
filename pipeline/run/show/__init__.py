"""What a run shows: progress, metrics, reports and the summary."""
