"""The sections of the report, each from what was measured to HTML."""
