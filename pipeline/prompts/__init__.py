"""Prompts in: listing Parquet files and their footers, reading row ranges, turning rows into requests or row errors."""
