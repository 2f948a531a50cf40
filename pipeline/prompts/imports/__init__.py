"""JSON Lines, JSON, CSV, text, OpenAI's batch files, datasets of the hub → Parquet; in one pass, in bounded memory."""
