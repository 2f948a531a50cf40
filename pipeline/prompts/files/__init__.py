"""The files of a source: found, checked, and read row range by row range."""
