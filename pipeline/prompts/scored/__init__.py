"""Rows → what is scored of them: whole texts, completions, endings, or stretches of one long text."""
