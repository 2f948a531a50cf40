"""promptmill and its peers, measured side by side on one machine. See README.md in this folder."""
