"""What may come next, and when a completion ends."""
