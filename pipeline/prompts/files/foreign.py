"""Says how a file that is no Parquet becomes one, by its name.

It does not look into the file.
"""

from __future__ import annotations

_READERS = {
    ".jsonl": "json.read_json('{0}')", ".ndjson": "json.read_json('{0}')", ".csv": "csv.read_csv('{0}')",
    ".tsv": "csv.read_csv('{0}', parse_options=csv.ParseOptions(delimiter='\\t'))",
    ".feather": "feather.read_table('{0}')", ".orc": "orc.read_table('{0}')",
}  # fmt: skip
_OTHERS = (".json", ".txt", ".xlsx", ".xls", ".arrow", ".db", ".sqlite", ".zip", ".tar", ".parquet.gz")
_PACKED = (".gz", ".bz2")


def conversion(name: str) -> str:
    """Return what to do with a file that may be of another format, as the end of a message; empty if its name tells nothing."""
    plain = name
    for ending in _PACKED:
        plain = plain.removesuffix(ending)
    for ending, reader in _READERS.items():
        if plain.lower().endswith(ending):
            module = reader.partition(".")[0]
            target = plain[: -len(ending)] + ".parquet"
            return (
                f'; prompts are read from Parquet: convert it once with python -c "from pyarrow import {module}, parquet; '
                f"parquet.write_table({reader.format(name)}, '{target}')\""
            )
    if name.lower().endswith(_OTHERS):
        return "; prompts are read from Parquet: convert it once (CONTRIBUTING.md, Add a prompt source)"
    return ""
