"""Token ids in, token ids and statistics out. Knows torch and transformers; no Ray, Arrow, Hydra or output file."""
