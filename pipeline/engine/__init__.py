"""The engines: token ids in, token ids and statistics out. Uses torch and transformers; no Ray, Arrow or Hydra."""
