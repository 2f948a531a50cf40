"""Parquet out: the schema, completions as Arrow tables, parts and their commit, the manifest and the dataset card."""
