"""Other formats → Parquet: JSON Lines, JSON, CSV, text, OpenAI's batch files, datasets of the hub; in one pass, in bounded memory."""
