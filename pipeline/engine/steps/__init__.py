"""A step: its tensors, its launch, and what comes back; on a GPU recorded and replayed."""
